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

from ..brokers.backoff import pause
from ..brokers.broker import Brokers
from ..complaints import Complaints
from ..duration import seconds
from ..errors import BrokerDamaged, ConfigurationError, MessageTooLarge, Unroutable
from ..handler import Source, where
from ..handlers.failure import describe
from ..handlers.outbox import Outbox
from ..handlers.signature import of_producer
from ..handlers.step import arguments, outgoing
from ..message import Message

log = logging.getLogger("mqasync")

MISTAKES = (ConfigurationError, MessageTooLarge, Unroutable)
RETRIES = 4  # of a producer that is to run once
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds before a failed producer without a schedule is started again
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


def schedule_of(source: Source[..., Any]) -> Schedule:
    """When that producer runs. Raises ConfigurationError, naming it."""
    try:
        return Schedule(source.every, source.timezone)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where(source.handler)}: {error}") from None


def zone(name: str | None) -> tzinfo:
    """The time zone of that name, or this machine's. Raises ConfigurationError, quoting the name."""
    try:
        return reload_localzone() if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        if name is None:
            what = f"the time zone of this machine (TZ={os.environ.get('TZ', '')!r}) has no name"
            raise ConfigurationError(
                f"{what}: set TZ to one like 'Europe/Berlin', or timezone= of the producer"
            ) from None
        close = get_close_matches(str(name), available_timezones(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "names are like 'Europe/Berlin' or 'UTC'"
        raise ConfigurationError(f"timezone={name!r} of a producer is no time zone; {hint}") from None


class Feed:
    """One producer at work. `injected` is what lifespan() yielded; `once` makes it run only once, schedule or not.

    `wait` bounds, in seconds, how long it waits for a queue to be bound to its exchange. `failed` counts the runs
    that failed; `failing`: the last one did.
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
        self.published = self.failed = self._failures = 0
        self.failing = False
        self.last_error = ""
        self._complaints = Complaints()
        self.broker = brokers.route(source.exchange).name
        self.schedule = schedule_of(source)
        signature = of_producer(source.handler)
        self._generator = signature.generator
        self._named = arguments(source.handler, signature, injected)
        self._publish = waiting_for_queues(brokers.publish, wait)
        self._once = once

    async def run(self) -> None:
        """Run on schedule until exhausted. A run that fails is counted and said, and costs nothing but itself.

        Raises a user's mistake that the first run finds at the start, before it has published anything; BrokerDamaged.
        """
        delay = 0.0 if self._once else self.schedule.wait(None)
        at_start = not delay  # a cron expression may come much later
        while delay is not None:
            await asyncio.sleep(delay)
            started = time.time()
            error = await self._outcome()
            if isinstance(error, BrokerDamaged):
                raise error
            if isinstance(error, MISTAKES) and at_start and not self.published:
                raise type(error)(f"{where(self.source.handler)}: {error}") from error
            at_start = False
            if error:
                delay = self._failed(error, started)
            else:
                self._failures, self.failing = 0, False
                delay = None if self._once else self.schedule.wait(started)

    async def _outcome(self) -> BaseException | None:
        """What one run failed with: anything, in a task of its own, which it may also have cancelled itself."""

        async def run() -> BaseException | None:
            try:
                await self._publish_all()
            except BaseException as error:
                return error
            return None

        error = await asyncio.create_task(run())
        if (task := asyncio.current_task()) and task.cancelling():
            raise asyncio.CancelledError
        return error

    def _failed(self, error: BaseException, started: float) -> float | None:
        """Count it and say it; seconds until the next run, None for never again."""
        self.failed, self.failing, self.last_error = self.failed + 1, True, describe(error)
        self._failures = 1 if time.time() - started > LONGEST_PAUSE else self._failures + 1
        delay: float | None = pause(self._failures, FIRST_PAUSE, LONGEST_PAUSE)
        then = f"again in {delay:.1f} s"
        if self._once:
            if self._failures > RETRIES:
                delay, then = None, f"not again after {self._failures} times"
        elif (scheduled := self.schedule.wait(started)) is not None:
            delay, then = scheduled, "again at its next time"
        self._complaints.say(f"{self.name}: the producer failed, {then}: {self.last_error}", error)
        return delay

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
