"""Taskiq with taskiq-aio-pika; with the safer setting a task that raises is retried."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskiq import SimpleRetryMiddleware
from taskiq_aio_pika import AioPikaBroker

from . import ledger

broker = AioPikaBroker(ledger.URL).with_middlewares(SimpleRetryMiddleware(default_retry_count=3))


@broker.task(retry_on_error=ledger.SAFE)
async def handle(name: str) -> None:
    """The task."""
    await ledger.task(name)


@asynccontextmanager
async def publisher() -> AsyncIterator[ledger.Publish]:
    """Declares the queue first, as every start of its broker does."""
    await broker.startup()
    yield handle.kiq
    await broker.shutdown()
