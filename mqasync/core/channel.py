"""Channel: receives, handles and settles the messages of one queue; no protocol, no signals, no event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import msgspec

from ..brokers.broker import Broker
from ..brokers.queues import stats
from ..duration import rate
from ..errors import BrokerError, Expired
from ..handler import CONCURRENCY, where
from ..handlers.attempt import DONE, Attempt, Outcome, Then, ended, failed
from ..handlers.current_message import HANDLING, Handling
from ..handlers.failure import describe
from ..handlers.reply import REPLIES, failure, reply_to, result
from ..handlers.step import Around, Step, surrounded
from ..message import Message
from ..transport import Delivery, Seen
from .dedup import Dedup
from .ordering import Lanes
from .pace import Pace
from .poison import ALONE, Quarantine, problem, read, suspect, worn
from .receiver import Receiver
from .settlement import Observe, Settlement, ignore, key

log = logging.getLogger("mqasync")

LATER_SECONDS = 1.0  # delay of a message that has to run alone, while another such message runs
TROUBLE_SECONDS = 5.0  # before a message that could not be settled is requeued


class Job(msgspec.Struct, eq=False):
    """Deliveries that are handled together."""

    deliveries: list[Delivery]
    alone: bool  # while no other handler runs
    attempt: Attempt | None = None
    carrier: asyncio.Task[None] | None = None  # does what has to be waited for outside the handler

    @property
    def work(self) -> asyncio.Task[None] | None:
        """The task that works on them now."""
        return self.carrier or (self.attempt.task if self.attempt else None)


class Channel:
    """One running consumer, from `start` to `drain`: up to `concurrency` attempts run concurrently.

    Every delivery is settled (see transport.py) once: acknowledged after its step has returned, requeued for a
    later attempt, or dead-lettered and then acknowledged. `quarantine` is shared by the channels of a process.
    `seen` remembers the ids of handled messages, for a consumer with `dedup`; `drain` closes it. `around` is
    wrapped around Step.run, the last one outermost. `context` holds the context variables that handlers see.
    """

    def __init__(
        self,
        step: Step,
        broker: Broker,
        observe: Observe = ignore,
        quarantine: Quarantine | None = None,
        seen: Seen | None = None,
        around: Sequence[Around] = (),
        context: Context | None = None,
    ) -> None:
        self.step = step
        self._run = surrounded(step, around)
        self.exchange, self.id = step.consumer.exchange, step.consumer.id
        self.name = f"{self.exchange}/{self.id}"
        options = self._options = step.consumer.options
        self.broker = broker
        self._handler = f"the handler {where(step.consumer.handler)} of {self.name}"
        self._context = context
        self._quarantine = quarantine or Quarantine()
        self._size = options.batch_size if step.signature.batch else 1
        self._pace = Pace(*rate(options.rate)) if options.rate else None
        self._concurrency = options.concurrency or (1 if step.signature.batch else CONCURRENCY)
        prefetch = max(self._size, options.prefetch or 2 * self._concurrency * self._size)
        self._settlement = Settlement(step.consumer, prefetch, broker, observe)
        self._ready = Lanes(ordered=options.ordered is not None)
        self._receiver = Receiver(
            self.exchange, self.id, prefetch, broker, self._settlement, self._ready, self._arrived
        )
        self._quarantine.join(self._go_on, lambda: self._held)
        self.declare = self._receiver.declare
        self.counts = self._settlement.counts
        self._dedup = Dedup(self.name, seen, self._settlement) if seen else None
        self._jobs: dict[Job, None] = {}
        self._batch_timer: asyncio.TimerHandle | None = None
        self._batch_due = False
        self._paced = False  # a timer is set for when the next handler may begin
        self._draining = False
        self._stopped = False
        self._receiving: asyncio.Task[None] | None = None

    @property
    def consuming(self) -> bool:
        """True while the broker delivers messages to this channel."""
        return self._receiver.consuming

    @property
    def _held(self) -> Collection[Delivery]:
        """Messages in flight, oldest first, without those that are still handled though their connection was lost."""
        return self._receiver.inbox.held if self._receiver.inbox else ()

    @property
    def held(self) -> int:
        """How many messages are in flight."""
        return len(self._held)

    @property
    def oldest(self) -> float | None:
        """Seconds since the oldest message in flight was first published; None if there is none."""
        return max((time.time() - delivery.message.time for delivery in self._held), default=None)

    async def depth(self) -> int:
        """How many messages are in the queue, as Transport.stats counts them."""
        found = await stats(self.broker, self.exchange, self.id)
        return found.total if found else 0

    def start(self, declared: bool = False) -> asyncio.Task[None]:
        """Start receiving; the task ends after `drain`, or with the error that ends the channel permanently.

        `declared`: the queues have just been declared and need not be declared again.
        """
        self._context = self._context or copy_context()
        self._receiving = asyncio.create_task(self._receiver.run(declared))
        return self._receiving

    async def _arrived(self, deliveries: list[Delivery]) -> None:
        suspects: list[Delivery] = []
        later: list[Delivery] = []
        if any(one.returned or ALONE in one.message.headers for one in deliveries):
            deliveries, suspects, later = self._sorted(deliveries)
        for delivery in deliveries:
            self._ready.put(delivery)
        self._go_on()
        if suspects:
            what = "were redelivered several times because their process died"
            self._settlement.complaints.say(f"{self.name}: {len(suspects):,} messages {what}; each will run alone")
            await self._settlement.send_copies(suspects, 1)
        if later:
            await self._settlement.send_copies(later, delay=LATER_SECONDS)

    def _sorted(self, deliveries: list[Delivery]) -> tuple[list[Delivery], list[Delivery], list[Delivery]]:
        """The deliveries to handle now, the suspects, and those to replace by delayed copies; see poison.py."""
        for delivery in deliveries:
            if ALONE in delivery.message.headers:
                read(delivery)
        if self._receiver.again:
            deliveries = [one for one in deliveries if not self._at_work_on(one) and not self._settlement.skips(one)]
        suspects = [one for one in deliveries if suspect(one) and not self._settlement.known(one)]
        later = self._quarantine.too_many(deliveries)
        later += [one for one in deliveries if worn(one) and one not in later and not self._settlement.known(one)]
        return [one for one in deliveries if one not in suspects and one not in later], suspects, later

    def _at_work_on(self, delivery: Delivery) -> bool:
        """Whether an attempt at it still runs though its connection was lost: that will settle this delivery."""
        for job in self._jobs:
            for index, old in enumerate(job.deliveries if job.carrier is None else ()):
                if old.subscription is not delivery.subscription and key(old) == key(delivery):
                    job.deliveries[index] = delivery
                    return True
        return False

    def _go_on(self) -> None:
        """Start handlers while there is room: called whenever messages arrive or a handler ends."""
        while len(self._jobs) < self._concurrency and self._quarantine.open and not self._draining:
            if self._pace and (pause := self._pace.pause()):
                return self._later(pause)
            if not (deliveries := self._next()):
                return
            special = any(map(self._needs_care, deliveries))
            job = Job(deliveries, special and any(delivery.alone for delivery in deliveries))
            self._jobs[job] = None
            if not job.alone:
                self._quarantine.enter()
            if special or self._dedup:
                self._carry(job, self._with_care(job))
            else:
                self._attempt(job, deliveries, partial(self._handled, job))

    def _later(self, pause: float) -> None:
        """Call _go_on when the next handler may begin."""

        def go_on() -> None:
            self._paced = False
            self._go_on()

        if not self._paced:
            self._paced = True
            asyncio.get_running_loop().call_later(pause, go_on)

    def _expired(self, delivery: Delivery) -> Expired | None:
        """The error if it is older than `max_age`."""
        if (most := self._options.max_age) is None:
            return None
        age = time.time() - delivery.message.time
        return None if age <= most else Expired(f"published {age:,.0f} s ago; max_age is {most:g} s")

    def _needs_care(self, delivery: Delivery) -> bool:
        """True if there is something to do or to check before a handler gets it."""
        return bool(
            delivery.alone
            or delivery.unreadable
            or delivery.moved
            or (self._settlement.kept and self._settlement.known(delivery))
            or self._expired(delivery)
        )

    def _next(self) -> list[Delivery]:
        """The messages to handle next; none while a batch may still grow, `batch_wait` after its first message."""
        waiting = len(self._ready)
        if waiting < self._size and not self._batch_due:
            if waiting and self._batch_timer is None:
                self._batch_timer = asyncio.get_running_loop().call_later(self._options.batch_wait, self._now)
            return []
        if self._batch_timer:
            self._batch_timer.cancel()
            self._batch_timer, self._batch_due = None, False
        return self._ready.take(self._size)

    def _now(self) -> None:
        """The batch has waited long enough."""
        self._batch_due = True
        self._go_on()

    def _attempt(self, job: Job, deliveries: Sequence[Delivery], then: Then | None = None) -> Attempt:
        if self._pace:
            self._pace.begin()
        messages = [delivery.message for delivery in deliveries]
        run = self._run_and_reply if any(map(reply_to, messages)) else self._run
        context = self._context.copy() if self._context else None
        job.attempt = Attempt(run, Handling(self.exchange, self.id, messages), self._handler, context, then)
        return job.attempt

    async def _run_and_reply(self, messages: Sequence[Message]) -> Any:
        value = await self._run(messages)
        for message in messages:
            if id := reply_to(message):
                await self.broker.send(REPLIES, id, result(message, value, self.id))
        return value

    def _handled(self, job: Job, outcome: Outcome) -> None:
        """The only attempt of this job, or the first one at its batch, has ended."""
        if job not in self._jobs:
            return  # `drain` did not wait for it
        if outcome is DONE:
            self._settlement.acknowledge(job.deliveries)
            self._end(job)
        else:
            self._carry(job, self._settle(job, job.deliveries, outcome))

    def _end(self, job: Job) -> None:
        """Remove the job: all of its deliveries are settled, or will be by `drain`."""
        if job.attempt:
            job.attempt.handling.messages = ()  # tasks that the handler started may run on, without a message
        if not job.alone:
            self._quarantine.leave()
        for delivery in job.deliveries:
            self._ready.done(delivery)
        del self._jobs[job]
        self._go_on()

    def _carry(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        job.carrier = asyncio.create_task(self._carried(job, work), name=f"settling {self.name}")

    async def _carried(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BrokerError as error:
            self._settlement.complaints.say(f"{self.name}: settling failed ({error}); the message will be redelivered")
            await self._come_back(job)
        except Exception as error:
            log.exception("%s: settling failed; the message will be redelivered", self.name)
            self.counts.last_error = describe(error)
            await self._come_back(job)
        finally:
            self._end(job)

    async def _come_back(self, job: Job) -> None:
        await asyncio.sleep(TROUBLE_SECONDS)
        await self._settlement.release(job.deliveries)

    async def _with_care(self, job: Job) -> None:
        """Check for duplicates, or wait until the message can run alone, and then handle it."""
        if self._dedup and not (new := await self._dedup.new(job.deliveries)):
            return
        deliveries = new if self._dedup else job.deliveries
        if not job.alone:
            return await self._handle(job, deliveries)
        async with self._quarantine.alone():
            await self._one_by_one(job, deliveries)

    async def _handle(self, job: Job, deliveries: Sequence[Delivery]) -> None:
        special = [delivery for delivery in deliveries if self._needs_care(delivery)]
        if special and len(deliveries) > 1:
            await self._one_by_one(job, special)
            return await self._handle(job, [delivery for delivery in deliveries if delivery not in special])
        if not deliveries:
            return
        first = deliveries[0]
        if first.moved:
            await self._settlement.release(deliveries)
        elif self._settlement.skips(first):
            return
        elif outcome := self._settlement.outcome(first):
            await self._settle(job, deliveries, outcome)
        elif why := problem(first) or self._expired(first):
            await self._settle(job, deliveries, failed(why))
        else:
            if self._pace:
                await self._pace.wait()
            await self._settle(job, deliveries, await self._attempt(job, deliveries).end())

    async def _one_by_one(self, job: Job, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if not self._stopped:
                await self._handle(job, [delivery])

    async def _settle(self, job: Job, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        if job.attempt:
            HANDLING.set(job.attempt.handling)  # for what is logged
        if outcome is DONE:
            if self._dedup:  # before the acknowledgement: a crash in between neither loses nor repeats the message
                await self._dedup.remember(deliveries)
            self._settlement.acknowledge(deliveries)
        elif outcome.kind == "postponed":
            await self._settlement.postpone(deliveries, outcome)
        elif outcome.error and len(deliveries) == 1:
            await self._fail(deliveries[0], outcome)
        elif outcome.error:
            await self._one_by_one(job, deliveries)  # one bad message does not take the others with it

    async def _fail(self, delivery: Delivery, outcome: Outcome) -> None:
        """Send the error to the requester; if there is none (any more), the message is retried or dead-lettered."""
        assert outcome.error
        message = delivery.message
        id = reply_to(message)
        if id and await self.broker.send(REPLIES, id, failure(message, outcome.error, self.id)):
            self._settlement.answered(delivery, outcome.error)
        else:
            await self._settlement.fail(delivery, outcome)

    async def drain(self, grace: float) -> None:
        """Stop receiving, let running handlers finish within `grace` seconds and requeue the rest.

        A handler that does not end when it is cancelled is left running, with a warning.
        """
        self._draining = True
        await self._receiver.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while work := [job.work for job in self._jobs if job.work]:
                    await asyncio.wait(work)
        self._stopped = True
        attempts = [job.attempt for job in self._jobs if job.attempt and not job.attempt.task.done()]
        for attempt in attempts:
            attempt.stop()
        await ended([attempt.task for attempt in attempts], then="; its message is requeued")
        own = [job.carrier for job in self._jobs if job.carrier] + ([self._receiving] if self._receiving else [])
        for task in own:
            task.cancel()
        await asyncio.gather(*own, return_exceptions=True)
        self._jobs.clear()
        await self._settlement.finish(list(self._held))
        if self._dedup:
            await self._dedup.close()
