"""Running producers: what a decorated one returns or yields is published, once or on a schedule."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from croniter import CroniterError, croniter

from .backoff import pause
from .broker import Brokers
from .duration import seconds
from .errors import ConfigurationError, MessageTooLarge, Unroutable
from .handler import Source, where
from .message import Message
from .outbox import Outbox
from .signature import of_producer
from .step import arguments, outgoing

log = logging.getLogger("mqasync")

RETRIES = 5
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a failed producer is started again
ROUTE_PAUSE = 0.25  # seconds between looks whether a queue is bound by now


class Schedule:
    """When a producer runs: once at start, every so many seconds, or as a cron expression says (local time).

    Raises ConfigurationError, quoting the value.
    """

    def __init__(self, every: str | float | None) -> None:
        self.cron = every if isinstance(every, str) and croniter.is_valid(every) else None
        try:
            self.period = None if every is None or self.cron else seconds(every)
            self.wait(0.0)  # a 30th of February never comes
        except (ConfigurationError, CroniterError):
            raise ConfigurationError(
                f"every={every!r} of a producer is neither a duration like '10m' nor a cron expression"
            ) from None

    def wait(self, started: float | None) -> float | None:
        """Seconds until the next run, given when the last one started (time.time()); None for never again."""
        now = time.time()
        if self.cron:
            next_time: float = croniter(self.cron, now).get_next(float)
            return next_time - now
        if started is None:
            return 0.0
        return None if self.period is None else max(0.0, started + self.period - now)


class Feed:
    """One producer at work. `injected` is what lifespan() yielded; `once` makes a schedule run only once.

    `wait` bounds, in seconds, how long it waits for a queue to be bound to its exchange.
    """

    def __init__(
        self,
        source: Source[..., Any],
        brokers: Brokers,
        injected: Mapping[str, Any],
        once: bool,
        wait: float | None,
    ) -> None:
        self.source = source
        self.name = f"{source.exchange}/{source.id}"
        self.published = 0
        self.broker = brokers.route(source.exchange).name
        try:
            self.schedule = Schedule(source.every)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where(source.handler)}: {error}") from None
        signature = of_producer(source.handler)
        self._generator = signature.generator
        self._named = arguments(source.handler, signature.injected, injected)
        self._publish = waiting_for_queues(brokers.publish, wait)
        self._once = once

    async def run(self) -> None:
        """Run on schedule until exhausted. A run that fails is started again, at most RETRIES times; then it raises."""
        started: float | None = None
        while (delay := 0.0 if self._once and started is None else self.schedule.wait(started)) is not None:
            await asyncio.sleep(delay)
            started = time.time()
            await self._run_once()
            if self._once:
                return

    async def _run_once(self) -> None:
        for failures in range(1, RETRIES + 2):
            try:
                return await self._publish_all()
            except (ConfigurationError, MessageTooLarge, Unroutable) as error:
                raise type(error)(f"{where(self.source.handler)}: {error}") from error
            except Exception as error:
                if failures > RETRIES:
                    raise
                delay = pause(failures, FIRST_PAUSE, LONGEST_PAUSE)
                log.warning("%s: the producer failed, again in %.1f s", self.name, delay, exc_info=error)
                await asyncio.sleep(delay)

    async def _publish_all(self) -> None:
        async with Outbox() as outbox:
            if not self._generator:
                value = await self.source.handler(**self._named)
                return await self._put(outbox, value)
            async with aclosing(self.source.handler(**self._named)) as values:
                async for value in values:
                    await self._put(outbox, value)

    async def _put(self, outbox: Outbox, value: Any) -> None:
        if value is None:
            return
        await outbox.put(self._confirmed(outgoing(value, self.source.exchange, self.source.id)))

    async def _confirmed(self, message: Message) -> None:
        await self._publish(message)
        self.published += 1


def waiting_for_queues(
    publish: Callable[[Message], Awaitable[None]], limit: float | None
) -> Callable[[Message], Awaitable[None]]:
    """`publish`, but while no queue is bound to the exchange it waits, saying so once, up to `limit` seconds."""
    said: set[str] = set()

    async def publish_or_wait(message: Message) -> None:
        deadline = None if limit is None else time.monotonic() + limit
        while True:
            try:
                return await publish(message)
            except Unroutable:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
            if message.exchange not in said:
                said.add(message.exchange)
                log.warning("no queue is bound to exchange %r yet: waiting for a consumer", message.exchange)
            await asyncio.sleep(ROUTE_PAUSE)

    return publish_or_wait
