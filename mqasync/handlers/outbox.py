"""Outbox: limits how many publishes are under way, and waits for them; no broker, no message is made here."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from types import TracebackType
from typing import Self

from ..errors import BrokerLost

UNCONFIRMED = 512
"""How many publishes one generator may have under way before it has to wait: its backpressure.

Two batches of the publisher: one is on its way while the next is collected.
"""


class Outbox:
    """`async with Outbox() as outbox`: everything that was put in is confirmed when the block has ended.

    Leaving the block, or `put` before that, raises what a publish raised, or BrokerLost if one took longer
    than `timeout` seconds; the others are cancelled.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._pending: deque[asyncio.Future[object]] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def put(self, publishing: Awaitable[object]) -> None:
        """Start `publishing`; wait for the oldest one when UNCONFIRMED are under way."""
        self._pending.append(asyncio.ensure_future(publishing))
        if len(self._pending) >= UNCONFIRMED:
            await self._oldest()

    async def _oldest(self) -> None:
        oldest = self._pending.popleft()
        if self._timeout is None or oldest.done():
            await oldest
            return
        done, _ = await asyncio.wait([oldest], timeout=self._timeout)
        if not done:
            oldest.cancel()
            raise BrokerLost(f"the broker has not confirmed a message within {self._timeout:g} s")
        oldest.result()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._pending and error is None:
                await self._oldest()
        finally:
            for publishing in self._pending:
                publishing.cancel()
            await asyncio.gather(*self._pending, return_exceptions=True)
