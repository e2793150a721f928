"""Enrich: allowed indicators are dropped, the others get scope and age, and the watched raise alerts.

Duplicates have the same id: `dedup` leaves them out.
"""

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
from .feeds import values
from .feeds.dates import when
from .feeds.values import as_address, host_address

log = logging.getLogger(__name__)
Network = IPv4Network | IPv6Network
# RFC 5737 and RFC 3849: Python counts them as private
DOCUMENTATION = [ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")]


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """`allow`: networks and domains that are dropped. `watch`: one's own networks, which raise alerts."""

    allow: tuple[str, ...] = ("192.0.2.53", "example.org")
    watch: tuple[str, ...] = ("198.51.100.0/25", "2001:db8:5::/48")


class Lists:
    """The allow list and the watch list; `dropped` counts what was allowed, `repeated` the duplicates in one batch.

    Raises ConfigurationError, quoting it, for an entry that is neither a network nor, in the allow list, a domain.
    """

    def __init__(self, settings: Settings) -> None:
        self.allowed = [as_network(entry) for entry in settings.allow if not is_domain(entry)]
        self.allowed_domains = tuple(as_domain(entry) for entry in settings.allow if is_domain(entry))
        self.watched = [as_network(entry) for entry in settings.watch]
        self.dropped = self.repeated = 0


@asynccontextmanager
async def lifespan(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """The lists; logs at the end what was dropped."""
    lists = Lists(settings)
    yield {"lists": lists}
    log.info("dropped: %s on the allow list, %s duplicates in one batch", f"{lists.dropped:,}", f"{lists.repeated:,}")


@consumer(exchange="indicators", id="enrich", to="enriched", batch_size=50, batch_wait=0.02, dedup="1d")
async def enrich(indicators: list[Indicator], messages: list[Message], lists: Lists) -> AsyncIterator[Out]:
    """Publish the enriched indicators, and those that touch a watched network to `alerts` as well.

    `dedup` leaves out what was handled before; duplicates in one batch are left out here.
    """
    once = {message.id: indicator for message, indicator in zip(messages, indicators, strict=True)}
    lists.repeated += len(indicators) - len(once)
    for id, indicator in once.items():
        network = network_of(indicator)
        if is_allowed(indicator, network, lists):
            lists.dropped += 1
            continue
        enriched = Enriched(
            **msgspec.structs.asdict(indicator),
            scope=scope(network) if network else None,
            age_days=age_days(indicator.date),
            watched=next((str(own) for own in lists.watched if network and touches(own, network)), None),
        )
        yield Out(enriched, id=id)
        if enriched.watched:
            yield Out(enriched, id=id, exchange="alerts")


def network_of(indicator: Indicator) -> Network | None:
    """The address or network that an indicator is, or whose URL it is, in whatever form it is written."""
    if indicator.kind == "url":
        address = host_address(urlsplit(indicator.value).hostname or "")
    else:
        address = as_address(indicator.value) if indicator.kind == "ip" else None
    if address or indicator.kind != "network":
        return ip_network(address) if address else None
    try:
        return ip_network(indicator.value)
    except ValueError:
        return None


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
    """Whole days since a date; None without one, or for one that cannot be read."""
    then = when(date) if date else None
    return (datetime.now(UTC) - then).days if then else None


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
    if entry.startswith(".") or not (name := values.as_domain(entry)):
        raise ConfigurationError(f"allow list: {entry!r} is not a domain")
    return name
