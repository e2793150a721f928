"""mqasync, as README.md shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mqasync import Producer, consumer

from . import ledger


@consumer(exchange="tasks", id="handle")
async def handle(body: str) -> None:
    """The task."""
    await ledger.task(body)


@asynccontextmanager
async def publisher() -> AsyncIterator[ledger.Publish]:
    """Publishes without declaring the queue, which the consumer does."""
    async with Producer(id="losses", exchange="tasks", broker=ledger.URL) as producer:
        yield producer.produce
