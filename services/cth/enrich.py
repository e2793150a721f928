"""Enrich: duplicates and allowed indicators are dropped, the others get scope and age, and the watched raise alerts."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mqasync import ConfigurationError, Message, Out, consumer

from .events import Enriched, Indicator

log = logging.getLogger(__name__)
Network = IPv4Network | IPv6Network
MAX_SEEN = 1_000_000  # indicators remembered, about 200 MB
# RFC 5737 and RFC 3849: Python counts them as private
DOCUMENTATION = [ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")]


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """`allow`: networks and domains that are dropped. `watch`: one's own networks, which raise alerts."""

    allow: tuple[str, ...] = ("192.0.2.53", "example.org")
    watch: tuple[str, ...] = ("198.51.100.0/25", "2001:db8:5::/48")


class Lists:
    """The allow list and the watch list; `dropped` counts what was allowed.

    Raises ConfigurationError, quoting it, for an entry that is neither a network nor, in the allow list, a domain.
    """

    def __init__(self, settings: Settings) -> None:
        self.allowed = [as_network(entry) for entry in settings.allow if not is_domain(entry)]
        self.allowed_domains = tuple(as_domain(entry) for entry in settings.allow if is_domain(entry))
        self.watched = [as_network(entry) for entry in settings.watch]
        self.dropped = 0


class Seen:
    """The indicators of this process's life, the newest MAX_SEEN of them; `dropped` counts the duplicates.

    A message that comes again is no duplicate of itself, so each is kept with its message id.
    Another process, or this one started anew, does not know them: there an indicator that stands
    twice in a feed can pass a second time, with another id.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._ids: dict[tuple[str, str], str] = {}

    def is_duplicate(self, indicator: Indicator, id: str) -> bool:
        """True if another message has brought the same indicator before."""
        first = self._ids.setdefault((indicator.kind, indicator.value), id)
        if len(self._ids) > MAX_SEEN:
            del self._ids[next(iter(self._ids))]
        return first != id


@asynccontextmanager
async def lifespan(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """The lists, and what has been seen; says at the end what was dropped."""
    lists, seen = Lists(settings), Seen()
    yield {"lists": lists, "seen": seen}
    log.info("dropped: %s duplicates, %s on the allow list", f"{seen.dropped:,}", f"{lists.dropped:,}")


@consumer(exchange="indicators", id="enrich", to="enriched", concurrency=100)
async def enrich(indicator: Indicator, message: Message, lists: Lists, seen: Seen) -> AsyncIterator[Enriched | Out]:
    """Put out the enriched indicator, and once more to `alerts` if it touches a watched network."""
    network = network_of(indicator)
    if is_allowed(indicator, network, lists):
        lists.dropped += 1
        return
    if seen.is_duplicate(indicator, message.id):
        seen.dropped += 1
        return
    watched = next((str(own) for own in lists.watched if network and touches(own, network)), None)
    enriched = Enriched(
        **msgspec.structs.asdict(indicator),
        scope=scope(network) if network else None,
        age_days=age_days(indicator.date),
        watched=watched,
    )
    yield enriched
    if watched:
        yield Out(enriched, exchange="alerts")


def network_of(indicator: Indicator) -> Network | None:
    """The address or network that an indicator is, or whose URL it is."""
    value = indicator.value
    if indicator.kind == "url":
        value = urlsplit(value).hostname or ""
    try:
        return ip_network(value) if indicator.kind in ("ip", "network", "url") else None
    except ValueError:
        return None  # a URL with a domain


def is_allowed(indicator: Indicator, network: Network | None, lists: Lists) -> bool:
    """True for what lies wholly in the allow list."""
    if network:
        return any(lies_in(network, allowed) for allowed in lists.allowed)
    host = urlsplit(indicator.value).hostname or "" if indicator.kind == "url" else indicator.value
    return any(host == domain or host.endswith(f".{domain}") for domain in lists.allowed_domains)


def touches(one: Network, other: Network) -> bool:
    """True if the two networks have an address in common."""
    return one.version == other.version and one.overlaps(other)


def lies_in(network: Network, block: Network) -> bool:
    """True if every address of `network` is one of `block`."""
    return touches(block, network) and block.prefixlen <= network.prefixlen


def scope(network: Network) -> str:
    """Where all addresses of a network are valid, by the IANA special-purpose registries (RFC 6890)."""
    if any(lies_in(network, block) for block in DOCUMENTATION):
        return "documentation"
    for name in ("unspecified", "loopback", "link_local", "multicast", "private", "reserved"):
        if getattr(network, f"is_{name}"):
            return name
    return "global" if network.is_global else "shared"


def age_days(date: str | None) -> int | None:
    """Whole days since an ISO 8601 date; None without one, or for one that cannot be read."""
    try:
        then = datetime.fromisoformat(date or "")
    except ValueError:
        return None
    return (datetime.now(UTC) - (then if then.tzinfo else then.replace(tzinfo=UTC))).days


def is_domain(entry: str) -> bool:
    """True if an entry of the allow list can be no address or network, not even a mistyped one."""
    return not any(mark in entry for mark in ":/ ") and not entry.replace(".", "").isdigit()


def as_network(entry: str) -> Network:
    """An entry of a list as a network. Raises ConfigurationError."""
    try:
        return ip_network(entry)
    except ValueError as error:
        raise ConfigurationError(f"allow or watch list: {error}") from error


def as_domain(entry: str) -> str:
    """An entry of the allow list in the form that parse gives domains. Raises ConfigurationError."""
    try:
        return entry.rstrip(".").encode("idna").decode().lower()
    except UnicodeError as error:
        raise ConfigurationError(f"allow list: {entry!r} is not a domain") from error
