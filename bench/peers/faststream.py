"""FastStream on RabbitMQ, without the two lines that it logs for each message."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from .common import EVENT, PREFETCH, Meter, in_flight, main

QUEUE = RabbitQueue("faststream.q", durable=True)


def broker_at(url: str) -> RabbitBroker:
    """With what it needs to lose nothing: unroutable messages raise, handlers finish at the end."""
    channel = Channel(prefetch_count=PREFETCH, on_return_raises=True)
    return RabbitBroker(url, default_channel=channel, graceful_timeout=10.0, logger=None)


async def publish(url: str, meter: Meter) -> None:
    """Confirmed, mandatory; `persist` is not the default."""
    async with broker_at(url) as broker:
        await broker.declare_queue(QUEUE)
        await in_flight(meter, lambda: broker.publish(EVENT, QUEUE, persist=True))


async def consume(url: str, meter: Meter) -> None:
    """As many handlers at once as messages are prefetched, its default."""
    last = asyncio.Event()
    broker = broker_at(url)

    @broker.subscriber(QUEUE)
    async def handle(event: dict[str, Any]) -> None:
        if meter.seen():
            last.set()

    async with broker:
        await broker.start()
        await last.wait()


if __name__ == "__main__":
    main(lambda *given: uvloop.run(publish(*given)), lambda *given: uvloop.run(consume(*given)))
