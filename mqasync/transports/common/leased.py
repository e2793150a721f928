"""Subscriptions to a table: rows taken for a lease, by who looks and is woken; no SQL and no broker's code."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import suppress

from ...transport import Delivery
from .envelope import unpack

Row = tuple[int, int, int, bytes | str | None, bytes]
"""Its number, how often it was taken, how often it came back by itself, and the envelope and body of a message."""


class Changed(defaultdict[str, asyncio.Event]):
    """What is set with the next change at each exchange, once: whoever looks takes it first, and waits for it then."""

    def __init__(self) -> None:
        super().__init__(asyncio.Event)

    def tell(self, exchange: str) -> None:
        """There may be something new."""
        self.pop(exchange, asyncio.Event()).set()


class LeasedRows(ABC):
    """One consumer of one queue. A delivery is ours as long as nobody took its row again: its tag says how often."""

    lease: float | None

    def __init__(self, exchange: str, lease: float, changed: Changed) -> None:
        self.exchange = exchange
        self.lease = lease
        self._changed = changed

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take what is due, oldest first; while nothing is, wait for a change, a due time or the timeout."""
        deadline = time.monotonic() + timeout
        while True:
            changed = self._changed[self.exchange]
            rows, due = await self._take(limit)
            pause = min(due, deadline - time.monotonic())
            if rows or pause <= 0:
                return [self._delivery(*row) for row in sorted(rows)]
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await changed.wait()

    @abstractmethod
    async def _take(self, limit: int) -> tuple[list[Row], float]:
        """What is due, at most `limit` rows, and where nothing is, the seconds until something will be."""

    def _delivery(self, n: int, taken: int, returned: int, envelope: bytes | str | None, body: bytes) -> Delivery:
        message, unreadable = unpack(self.exchange, envelope, body, f"{self.exchange}/{n}")
        return Delivery(message, tag=(n, taken), returned=returned, unreadable=unreadable)

    async def close(self) -> None:  # noqa: B027
        """Nothing to do: a row that is not settled comes back by its lease."""
