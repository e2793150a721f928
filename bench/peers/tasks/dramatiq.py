"""Dramatiq, which retries by default; with the safer setting it confirms what is published."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from . import ledger

dramatiq.set_broker(RabbitmqBroker(url=ledger.URL, confirm_delivery=ledger.SAFE))


@dramatiq.actor
def handle(name: str) -> None:
    """The task."""
    asyncio.run(ledger.task(name))


@asynccontextmanager
async def publisher() -> AsyncIterator[ledger.Publish]:
    """Blocks; declares the queue."""

    async def publish(name: str) -> None:
        handle.send(name)

    yield publish
