"""Lifespan: what a service opens before its handlers run and closes after them; no handler is called here."""

import asyncio
import inspect
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any, get_type_hints

import msgspec

from ..config.settings import Settings
from ..errors import ConfigurationError
from ..handlers.attempt import ended
from .discovery import Service

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
        """Return what it yields. Raises what it raises, and ConfigurationError."""
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


def lifespan_settings(service: Service, settings: Settings) -> list[Any]:
    """What lifespan() gets: the service's section of config.yml as the type its parameter is annotated with."""
    assert service.lifespan
    section = settings.services.get(service.name, {})
    parameters = list(inspect.signature(service.lifespan).parameters)
    if not parameters:
        return []
    kind = get_type_hints(service.lifespan).get(parameters[0], dict)
    try:
        return [msgspec.convert(section, kind, strict=False)]
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"services.{service.name} in the configuration: {error}") from error
