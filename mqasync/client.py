"""Client: what Producer.produce and Consumer.consume run on in a user's own program; no signals, no modules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

from .broker import Brokers
from .channel import Channel
from .config import load_settings
from .dedup import seen_of
from .errors import BrokerLost
from .handler import Consumer, Producer
from .message import NaturalKey, Out
from .outbox import Outbox
from .step import Step, outgoing
from .telemetry import traced

Bodies = Iterable[Any] | AsyncIterable[Any]

GRACE = 30.0
"""Seconds that running handlers get to finish when the work ends."""


class Client:
    """The brokers of config.yml, opened for one Producer."""

    def __init__(self, brokers: Brokers) -> None:
        self.brokers = brokers

    @classmethod
    async def open(cls, config: str | None, broker: str | None) -> Client:
        """Load the configuration; the broker is connected by the first message. Raises ConfigurationError."""
        brokers, _ = traced(load_settings(config, broker))
        return cls(brokers)

    async def produce(
        self,
        producer: Producer,
        body: Any,
        key: NaturalKey | None,
        headers: dict[str, str] | None,
        id: NaturalKey | None,
        timeout: float,
    ) -> str:
        """See Producer.produce."""
        out = Out(body, key=key, headers={} if headers is None else headers, id=id)
        message = outgoing(out, producer.exchange, producer.id)
        try:
            async with asyncio.timeout(timeout):
                await self.brokers.publish(message)
        except TimeoutError:
            address = self.brokers.route(producer.exchange).address
            raise BrokerLost(f"{address} has not confirmed message {message.id} within {timeout:g} s") from None
        return message.id

    async def produce_many(self, producer: Producer, bodies: Bodies, timeout: float) -> int:
        """See Producer.produce_many."""
        count = 0
        async with Outbox(timeout) as outbox:
            async for body in each(bodies):
                await outbox.put(self.brokers.publish(outgoing(body, producer.exchange, producer.id)))
                count += 1
        return count

    async def close(self) -> None:
        """Let go of the brokers."""
        await self.brokers.close()


async def each(bodies: Bodies) -> AsyncIterator[Any]:
    """The items of either kind of iterable."""
    if isinstance(bodies, AsyncIterable):
        async for body in bodies:
            yield body
    else:
        for body in bodies:
            yield body


async def consume(consumer: Consumer, config: str | None, broker: str | None) -> None:
    """See Consumer.consume."""
    settings = load_settings(config, broker)
    consumer = settings.configured(consumer)
    brokers, around = traced(settings)
    step, seen = Step(consumer, brokers.publish, {}), seen_of(consumer, settings.dedup)
    channel = Channel(step, brokers.route(consumer.exchange), seen=seen, around=around)
    try:
        await channel.start()
    finally:
        await channel.drain(GRACE)
        await brokers.close()
