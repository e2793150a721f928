"""Lifespan: what a service opens before its handlers run and closes after them; no handler is called here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any

from ..config.settings import Settings
from ..handlers.attempt import ended
from .discovery import Service
from .startup import lifespan_settings

CANCEL_SECONDS = 1.0  # for what has had its time before


class Lifespan:
    """A service's lifespan(), entered and left in one task of its own, which is cancelled where it takes too long.

    `context` holds the context variables that it has set, for the service's handlers.
    """

    def __init__(self, service: Service, settings: Settings) -> None:
        self.context = copy_context()
        self._service, self._settings = service, settings
        self._opened: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"lifespan() of {service.name}", context=self.context)

    async def _run(self) -> None:
        if self._service.lifespan is None:
            self._opened.set_result({})
            return
        async with self._service.lifespan(*lifespan_settings(self._service, self._settings)) as injected:
            self._opened.set_result(injected or {})
            await self._closing.wait()

    async def open(self) -> Mapping[str, Any]:
        """What it yields. Raises what it raises, and ConfigurationError."""
        waiting: list[asyncio.Future[Any]] = [self.task, self._opened]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not self._opened.done():
            await self.task  # it has failed
        return self._opened.result()

    async def close(self, deadline: float) -> None:
        """Leave it; at `deadline`, on the loop's clock, it is cancelled, and left behind where that does not help.

        Raises what it raises.
        """
        self._closing.set()
        within = max(0.5, deadline - asyncio.get_running_loop().time())
        if self._opened.done():
            await asyncio.wait([self.task], timeout=within)
        if not self.task.done():
            self.task.cancel()
            await ended([self.task], CANCEL_SECONDS)
        if self.task.done() and not self.task.cancelled():
            self.task.result()
