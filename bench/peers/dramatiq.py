"""Dramatiq on RabbitMQ; its worker runs in this process instead of a child of it."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from .common import EVENT, PREFETCH, Meter, main

QUEUE = "dramatiq.q"


def publish(url: str, meter: Meter) -> None:
    """One after another; confirmed and mandatory, which is not the default."""
    broker = RabbitmqBroker(url=url, confirm_delivery=True)

    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name="handle")
    def handle(event: dict[str, Any]) -> None: ...

    for _ in range(meter.total):
        handle.send(EVENT)
        meter.seen()
    broker.close()


def consume(url: str, meter: Meter) -> None:
    """With its default of 8 threads."""
    last = threading.Event()
    broker = RabbitmqBroker(url=url, confirm_delivery=True)

    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name="handle")
    def handle(event: dict[str, Any]) -> None:
        if meter.seen():
            last.set()

    worker = dramatiq.Worker(broker, worker_threads=8)
    worker.queue_prefetch = PREFETCH
    worker.start()
    last.wait()
    worker.stop()
    broker.close()


if __name__ == "__main__":
    main(publish, consume)
