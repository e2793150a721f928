"""Health: how the brokers, consumers and producers of a running process are, as data for people and probes."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from ..brokers.broker import Broker
from ..core.channel import Channel
from ..core.settlement import Counts
from ..core.source import Feed


class BrokerHealth(msgspec.Struct, frozen=True):
    """`state` is that of Broker.state; `reconnects` counts since the start."""

    state: str
    reconnects: int


class ConsumerHealth(Counts, kw_only=True):
    """How a consumer is; what is counted, is counted since the start.

    `consuming`: the broker sends its messages here. `held`: deliveries in hand. `oldest`: seconds since the
    oldest of them was first published, None if there are none. `published`: its outputs, by exchange. `to`: its
    declared ones.
    """

    exchange: str
    id: str
    to: tuple[str, ...]
    consuming: bool
    held: int
    oldest: float | None
    published: dict[str, int]

    @property
    def lag(self) -> float:
        """`oldest`, or 0."""
        return self.oldest or 0.0


class ProducerHealth(msgspec.Struct, frozen=True):
    """How a producer is; `published` and `failed`, its runs that did not succeed, count since the start.

    `failing`: its last run did not succeed, and why is the `last_error`.
    """

    exchange: str
    id: str
    published: int
    failed: int
    failing: bool
    last_error: str


class Health(msgspec.Struct, frozen=True):
    """At `time` (seconds since 1970): brokers by name, consumers and producers by exchange/id.

    `lags`: how often the event loop stood still for a second or more.
    """

    time: float
    brokers: dict[str, BrokerHealth]
    consumers: dict[str, ConsumerHealth]
    producers: dict[str, ProducerHealth]
    lags: int

    @property
    def ready(self) -> bool:
        """True while every broker takes messages and every consumer really consumes."""
        connected = all(broker.state == "connected" for broker in self.brokers.values())
        return connected and all(consumer.consuming for consumer in self.consumers.values())

    @property
    def failing(self) -> dict[str, str]:
        """The producers whose last run failed, by exchange/id, and why."""
        return {name: producer.last_error for name, producer in self.producers.items() if producer.failing}


def health(brokers: Iterable[Broker], channels: Iterable[Channel], feeds: Iterable[Feed], lags: int) -> Health:
    """How they are now."""
    return Health(
        time=time.time(),
        brokers={broker.name: BrokerHealth(broker.state, broker.reconnects) for broker in brokers},
        consumers={channel.name: _consumer(channel) for channel in channels},
        producers={feed.name: _producer(feed) for feed in feeds},
        lags=lags,
    )


def _consumer(channel: Channel) -> ConsumerHealth:
    return ConsumerHealth(
        exchange=channel.exchange,
        id=channel.id,
        to=channel.step.consumer.options.to,
        consuming=channel.consuming,
        held=channel.held,
        oldest=channel.oldest,
        published=dict(channel.step.outputs),
        **msgspec.structs.asdict(channel.counts),
    )


def _producer(feed: Feed) -> ProducerHealth:
    source = feed.source
    return ProducerHealth(source.exchange, source.id, feed.published, feed.failed, feed.failing, feed.last_error)
