"""Consumers at work in the process of the test, and what is put into their queues and found there; no test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from mqasync import Consumer, Message, consumer
from mqasync.brokers.broker import Brokers
from mqasync.core.channel import Channel
from mqasync.handlers.step import Step
from mqasync.transport import DEAD, Seen

from .waiting import PATIENCE


@asynccontextmanager
async def working(
    brokers: Brokers,
    *consumers: Consumer,
    grace: float = 5.0,
    publish: Callable[[Message], Awaitable[None]] | None = None,
    seen: Seen | None = None,
    observe: Callable[[str, Message], None] = lambda event, message: None,
) -> AsyncIterator[list[Channel]]:
    """The consumers at work, all declared before the block starts; `publish` gets what they put out."""
    channels = [
        Channel(Step(one, publish or brokers.publish, {}), brokers.route(one.exchange), observe, seen=seen)
        for one in consumers
    ]
    for channel in channels:
        await channel.declare()
    for channel in channels:
        channel.start()
    try:
        yield channels
    finally:
        for channel in channels:
            await channel.drain(grace)


def idle(exchange: str, **options: Any) -> Consumer:
    """A consumer of (exchange, "q") that does nothing."""

    @consumer(exchange=exchange, id="q", **options)
    async def handler(body: Any) -> None: ...

    return handler


async def publish(brokers: Brokers, exchange: str, *bodies: bytes, **fields: Any) -> None:
    """Publish them at the same time."""
    await asyncio.gather(*(brokers.publish(Message(body=body, exchange=exchange, **fields)) for body in bodies))


async def until_depth(channel: Channel, depth: int) -> None:
    """Wait until so many messages are in the queue; a broker may count a moment behind."""
    async with asyncio.timeout(PATIENCE):
        while await channel.depth() != depth:  # noqa: ASYNC110, a broker tells nobody
            await asyncio.sleep(0.05)


async def dead_letters(brokers: Brokers, exchange: str, id: str, count: int) -> list[Message]:
    """Receive `count` dead letters of the queue and put them back."""
    subscription = await (await brokers.route(exchange).connected()).subscribe(exchange, id + DEAD, 100)
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            deliveries = await subscription.receive(100, 1.0)
            found += [delivery.message for delivery in deliveries]
            await subscription.release(deliveries) if len(found) >= count else None
    await subscription.close()
    return found
