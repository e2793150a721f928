"""Health: how the brokers and consumers of a running process are, as data for people and probes; it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .broker import Broker
from .channel import Channel


class BrokerHealth(msgspec.Struct, frozen=True):
    """`state` is that of Broker.state; `reconnects` counts since the start."""

    address: str
    state: str
    reconnects: int


class ConsumerHealth(msgspec.Struct, frozen=True):
    """`consuming`: the broker sends its messages here. `held`: deliveries in hand."""

    consuming: bool
    held: int
    handled: int
    retried: int
    buried: int
    last_error: str


class Health(msgspec.Struct, frozen=True):
    """Brokers by name, consumers by exchange/id, and how often the event loop stood still for a second or more."""

    brokers: dict[str, BrokerHealth]
    consumers: dict[str, ConsumerHealth]
    lags: int

    @property
    def ready(self) -> bool:
        """True while every broker takes messages and every consumer really consumes."""
        connected = all(broker.state == "connected" for broker in self.brokers.values())
        return connected and all(consumer.consuming for consumer in self.consumers.values())


def health(brokers: Iterable[Broker], channels: Iterable[Channel], lags: int) -> Health:
    """How they are now."""
    return Health(
        brokers={broker.name: BrokerHealth(broker.address, broker.state, broker.reconnects) for broker in brokers},
        consumers={channel.name: _consumer(channel) for channel in channels},
        lags=lags,
    )


def _consumer(channel: Channel) -> ConsumerHealth:
    counts = channel.counts
    return ConsumerHealth(
        channel.consuming, channel.held, counts.handled, counts.retried, counts.buried, counts.last_error
    )
