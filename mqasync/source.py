"""Running producers: what a decorated one returns or yields is published, once or on a schedule."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from datetime import datetime, tzinfo
from difflib import get_close_matches
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError
from tzlocal import reload_localzone

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
    """When a producer runs: once at start, every so many seconds, or at the times of a cron expression, each once.

    `timezone` is where a cron expression is meant, such as Europe/Berlin; without it, where this machine is.
    Raises ConfigurationError, quoting the value.
    """

    def __init__(self, every: str | float | None, timezone: str | None = None) -> None:
        cron = every if isinstance(every, str) and len(every.split()) > 2 else None
        self._times: Iterator[datetime] | None = None
        self._period: float | None = None
        place = zone(timezone) if cron or timezone is not None else None
        try:
            if cron:
                now = datetime.fromtimestamp(time.time(), place)
                self._times = CronSim(cron, now)
                next(CronSim(cron, now))  # a 30th of February never comes
            elif every is not None:
                self._period = seconds(every)
        except (ConfigurationError, CronSimError, StopIteration):
            what = "is neither a duration like '10m' nor a cron expression like '30 6 * * *'"
            raise ConfigurationError(f"every={every!r} of a producer {what}") from None
        if timezone is not None and not cron:
            what = "says where a cron expression is meant"
            raise ConfigurationError(f"timezone={timezone!r} of a producer {what}, and every={every!r} is none")

    def wait(self, started: float | None) -> float | None:
        """Seconds until the next run, given when the last one started (time.time()); None for never again.

        Each time of a cron expression is answered once, even if the clock goes back; what is over, is left out.
        """
        now = time.time()
        if self._times:
            return next((at.timestamp() - now for at in self._times if at.timestamp() > now), None)
        if started is None:
            return 0.0
        return None if self._period is None else max(0.0, started + self._period - now)


def zone(name: str | None) -> tzinfo:
    """The time zone of that name, or this machine's. Raises ConfigurationError, quoting the name."""
    try:
        return reload_localzone() if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        if name is None:
            what = f"the time zone of this machine (TZ={os.environ.get('TZ', '')!r}) has no name"
            raise ConfigurationError(f"{what}: set TZ to one like 'Europe/Berlin', or timezone= of the producer") from None
        close = get_close_matches(str(name), available_timezones(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "names are like 'Europe/Berlin' or 'UTC'"
        raise ConfigurationError(f"timezone={name!r} of a producer is no time zone; {hint}") from None


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
            self.schedule = Schedule(source.every, source.timezone)
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
