"""Waiting for something to become true, in tests; no test."""

import asyncio
import time
from collections.abc import Callable

from mqasync.brokers.connection import Connection

PATIENCE = 20.0  # seconds; far more than anything takes on an idle machine


async def until(true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until `true()`; say `what` did not come about after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        await asyncio.sleep(0.01)


async def depth(transport: Connection, exchange: str, id: str) -> int:
    """How many messages are in a queue that has to be there."""
    stats = await transport.stats(exchange, id)
    assert stats, f"there is no queue {exchange}/{id}"
    return stats.total
