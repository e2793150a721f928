"""What travels between the steps: records, indicators and enriched indicators; no handler."""

import msgspec


class Record(msgspec.Struct):
    """One entry of a feed, as it stands there; `date` is when the feed says it was first seen."""

    value: str
    source: str
    date: str | None = None


class Indicator(msgspec.Struct):
    """A record understood: `kind` is ip, network, domain, url, md5, sha1, sha256 or sha512."""

    kind: str
    value: str
    source: str
    date: str | None = None


class Enriched(Indicator, kw_only=True, omit_defaults=True):
    """An indicator and what is known about it.

    `scope` of an address or network: global, private, documentation and so on. `age_days` since its
    date. `watched` is the network of the watch list that it touches.
    """

    scope: str | None = None
    age_days: int | None = None
    watched: str | None = None
