"""Buffer: keeps the messages that a broker pushes until they are received; nothing is settled, no broker's code."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ...transport import Delivery


class Buffer:
    """Filled by the client library's callbacks, emptied by Subscription.receive, which may be cancelled."""

    def __init__(self) -> None:
        self._waiting: list[Delivery] = []
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    def put(self, delivery: Delivery) -> None:
        """Add a delivery that has arrived."""
        self._waiting.append(delivery)
        self._changed.set()

    def lose(self, error: BaseException) -> None:
        """No more deliveries arrive: receive raises `error` when the buffer is empty."""
        self._error = self._error or error
        self._changed.set()

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """See Subscription.receive."""
        if not self._waiting and not self._error and timeout:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
        if self._error and not self._waiting:
            raise self._error
        taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return taken
