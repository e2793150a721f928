"""mqasync, as README.md shows it in a program."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from mqasync import Producer, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import load_settings

from .common import EVENT, PREFETCH, Meter, in_flight, main


def config(url: str) -> str | None:
    """Classic queues on RabbitMQ, as the others have."""
    return str(Path(__file__).with_name("config.yml")) if url.startswith("amqp") else None


async def publish(url: str, meter: Meter) -> None:
    """Confirmed, mandatory; `mqasync run` would have declared the queue."""
    brokers = Brokers(load_settings(config(url), url))
    await brokers.route("mqasync").call(lambda transport: transport.declare("mqasync", "q"))
    await brokers.close()
    async with Producer(id="bench", exchange="mqasync", config=config(url), broker=url) as producer:
        await in_flight(meter, lambda: producer.produce(EVENT))


async def consume(url: str, meter: Meter) -> None:
    """With its default of 30 handlers at once."""
    last = asyncio.Event()

    @consumer(exchange="mqasync", id="q", prefetch=PREFETCH)
    async def handle(event: dict[str, Any]) -> None:
        if meter.seen():
            last.set()

    consuming = asyncio.create_task(handle.consume(config=config(url), broker=url))
    await last.wait()
    consuming.cancel()
    with suppress(asyncio.CancelledError):
        await consuming


if __name__ == "__main__":
    main(lambda *given: uvloop.run(publish(*given)), lambda *given: uvloop.run(consume(*given)))
