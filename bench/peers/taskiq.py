"""Taskiq with taskiq-aio-pika; its worker runs in this process instead of a child of it."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from taskiq.receiver import Receiver
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

from .common import EVENT, PREFETCH, Meter, in_flight, main


def broker_at(url: str) -> AioPikaBroker:
    """Its queues are durable, its messages persistent."""
    return AioPikaBroker(url, qos=PREFETCH).with_queue(Queue(name="taskiq.q", type=QueueType.CLASSIC))


async def publish(url: str, meter: Meter) -> None:
    """Confirmed."""
    broker = broker_at(url)

    @broker.task("handle")
    async def handle(event: dict[str, Any]) -> None: ...

    await broker.startup()
    await in_flight(meter, lambda: handle.kiq(EVENT))
    await broker.shutdown()


async def consume(url: str, meter: Meter) -> None:
    """With the 100 tasks at once that `taskiq worker` allows."""
    last = asyncio.Event()
    broker = broker_at(url)

    @broker.task("handle")
    async def handle(event: dict[str, Any]) -> None:
        if meter.seen():
            last.set()

    broker.is_worker_process = True
    await Receiver(broker, max_async_tasks=100).listen(last)
    await broker.shutdown()


if __name__ == "__main__":
    main(lambda *given: uvloop.run(publish(*given)), lambda *given: uvloop.run(consume(*given)))
