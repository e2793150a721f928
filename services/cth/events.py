"""What travels between the steps: records, indicators and enriched indicators; no handler."""

from typing import Any

import msgspec


class Record(msgspec.Struct, omit_defaults=True):
    """One value of a feed, as it stands there.

    `date` is when the feed says it was first seen, `type` the kind that the feed says it has. `feed` and `provider`
    are the names that config.yml gives to where it comes from. `extra` is what stood beside it, by column.
    """

    value: str
    source: str
    date: str | None = None
    type: str = ""
    feed: str = ""
    provider: str = ""
    extra: dict[str, Any] = {}


class Indicator(msgspec.Struct, omit_defaults=True):
    """A record understood: `kind` is ip, network, domain, url, email, asn, md5, sha1, sha256 or another hash.

    `date` is ISO 8601, in UTC. `raw` is how it stood in the feed, where that is not its normal form.
    """

    kind: str
    value: str
    source: str
    date: str | None = None
    feed: str = ""
    provider: str = ""
    raw: str = ""
    extra: dict[str, Any] = {}


class Enriched(Indicator, kw_only=True, omit_defaults=True):
    """An indicator and what is known about it.

    `scope` of an address or network: global, private, documentation and so on. `age_days` since its
    date. `watched` is the network of the watch list that it touches.
    """

    scope: str | None = None
    age_days: int | None = None
    watched: str | None = None
