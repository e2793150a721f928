"""Feed: runs one producer and publishes what it returns or yields; when it runs is in schedule.py."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from ..brokers.backoff import pause
from ..brokers.broker import Brokers
from ..complaints import Complaints
from ..errors import BrokerDamaged, ConfigurationError, MessageTooLarge, Unroutable
from ..handler import Source, where
from ..handlers.failure import describe
from ..handlers.outbox import Outbox
from ..handlers.signature import of_producer
from ..handlers.step import arguments, outgoing
from ..message import Message
from .schedule import schedule_of

log = logging.getLogger("mqasync")

MISTAKES = (ConfigurationError, MessageTooLarge, Unroutable)
RETRIES = 4  # of a producer that is to run once
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds before a failed producer without a schedule is started again
ROUTE_PAUSE = 0.25  # seconds between two checks whether a queue is bound


class Feed:
    """One running producer. `injected` is what lifespan() yielded; `once` makes it run only once, schedule or not.

    `wait` limits, in seconds, how long it waits for a queue to be bound to its exchange. `failed` counts the runs
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
        self.outputs: Counter[str] = Counter()  # how many messages were published, by exchange
        self.failed = self._failures = 0
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
        """Run on schedule until exhausted. A failed run is counted and logged, and has no other effect.

        Raises BrokerDamaged, and the user's mistakes that the first run meets before it has published anything.
        """
        delay = 0.0 if self._once else self.schedule.wait(None)
        at_start = not delay  # a cron expression may come much later
        while delay is not None:
            await asyncio.sleep(delay)
            started = time.time()
            error = await self._outcome()
            if isinstance(error, BrokerDamaged):
                raise error
            if isinstance(error, MISTAKES) and at_start and not self.outputs:
                raise type(error)(f"{where(self.source.handler)}: {error}") from error
            at_start = False
            if error:
                delay = self._failed(error, started)
            else:
                self._failures, self.failing = 0, False
                delay = None if self._once else self.schedule.wait(started)

    async def _outcome(self) -> BaseException | None:
        """The error of one run, if it failed. It has a task of its own, as it may raise anything or cancel itself."""

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
        """Count and log a failed run; returns the seconds until the next run, None if there is none."""
        self.failed, self.failing, self.last_error = self.failed + 1, True, describe(error)
        self._failures = 1 if time.time() - started > LONGEST_PAUSE else self._failures + 1
        delay: float | None = pause(self._failures, FIRST_PAUSE, LONGEST_PAUSE)
        then = f"next run in {delay:.1f} s"
        if self._once:
            if self._failures > RETRIES:
                delay, then = None, f"giving up after {self._failures} runs"
        elif (scheduled := self.schedule.wait(started)) is not None:
            delay, then = scheduled, "next run on schedule"
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
        self.outputs[message.exchange] += 1


def waiting_for_queues(
    publish: Callable[[Message], Awaitable[None]],
    limit: float | None,
    hint: Callable[[], Awaitable[str]] | None = None,
) -> Callable[[Message], Awaitable[None]]:
    """`publish`, but it waits up to `limit` seconds for a queue to be bound to the exchange, and warns once.

    The warning ends with the `hint`.
    """
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
                more = await hint() if hint else ""
                log.warning("no queue is bound to exchange %r yet; waiting for a consumer%s", message.exchange, more)
            await asyncio.sleep(ROUTE_PAUSE)

    return publish_or_wait
