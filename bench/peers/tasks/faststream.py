"""FastStream; with the safer setting what a raising handler got goes back to its queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from . import ledger

broker = RabbitBroker(ledger.URL, default_channel=Channel(on_return_raises=True) if ledger.SAFE else None)
app = FastStream(broker)
queue = RabbitQueue("tasks", durable=True)  # neither this nor `persist` is the default


@broker.subscriber(queue, ack_policy=AckPolicy.NACK_ON_ERROR if ledger.SAFE else AckPolicy.REJECT_ON_ERROR)
async def handle(name: str) -> None:
    """The task; rejecting, which drops it, is the default."""
    await ledger.task(name)


@asynccontextmanager
async def publisher() -> AsyncIterator[ledger.Publish]:
    """Publishes without declaring the queue, which the subscriber does."""
    async with broker:
        yield lambda name: broker.publish(name, "tasks", persist=True)
