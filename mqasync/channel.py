"""Channel: the life of a message on one queue, receive, handle, settle; no protocol, no signals, no loop of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from . import handling
from .broker import Broker
from .dedup import Dedup, Seen
from .errors import BrokerError
from .lanes import Lanes
from .quarantine import Quarantine, check, suspect
from .queues import stats
from .receiver import Receiver
from .reply import REPLIES, failure, reply_to, result
from .settlement import Observe, Settlement, ignore
from .step import Around, Step, surrounded
from .transport import Delivery

log = logging.getLogger("mqasync")

TROUBLE_SECONDS = 5.0  # pause of a worker that could not settle


class Channel:
    """One consumer at work, from `start` to `drain`: `concurrency` workers take what one receiver brings.

    Every delivery is settled once: acknowledged after its step has returned, given back for a
    later attempt, or buried and then acknowledged. `quarantine` is shared by the channels of a process.
    `seen` remembers what was handled, for a consumer with `dedup`; it is closed by `drain`. `around` is
    wrapped around Step.run, the last one outermost.
    """

    def __init__(
        self,
        step: Step,
        broker: Broker,
        observe: Observe = ignore,
        quarantine: Quarantine | None = None,
        seen: Seen | None = None,
        around: Sequence[Around] = (),
    ) -> None:
        self.step = step
        self._run = surrounded(step, around)
        self.exchange, self.id = step.consumer.exchange, step.consumer.id
        self.name = f"{self.exchange}/{self.id}"
        options = self._options = step.consumer.options
        self.broker = broker
        self._quarantine = quarantine or Quarantine()
        self._size = options.batch_size if step.signature.batch else 1
        self._concurrency = options.concurrency or (1 if step.signature.batch else 10)
        prefetch = max(self._size, options.prefetch or 2 * self._concurrency * self._size)
        self._settlement = Settlement(step.consumer, prefetch, broker, observe)
        self._ready = Lanes(ordered=options.ordered is not None)
        self._receiver = Receiver(self.exchange, self.id, prefetch, broker, self._settlement, self._ready)
        self.declare = self._receiver.declare
        self.counts = self._settlement.counts
        self._dedup = Dedup(self.name, seen, self._settlement) if seen else None
        self._collecting = asyncio.Lock()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def consuming(self) -> bool:
        """True while the broker sends its messages here."""
        return self._receiver.consuming

    @property
    def held(self) -> int:
        """Deliveries in hand, not settled."""
        return len(self._settlement.held)

    @property
    def oldest(self) -> float | None:
        """Seconds since the oldest message in hand was first published; None if there is none."""
        return max((time.time() - delivery.message.time for delivery in self._settlement.held), default=None)

    async def depth(self) -> int:
        """How many messages are in the queue, as Transport.stats counts them."""
        found = await stats(self.broker, self.exchange, self.id)
        return found.total if found else 0

    def start(self, declared: bool = False) -> asyncio.Task[None]:
        """Begin to work; the task ends after `drain`, or with the error that ends the channel for good.

        `declared`: `declare` would be no use, all of it has just been done.
        """
        receiving = asyncio.create_task(self._receiver.run(declared))
        self._tasks = [receiving, *(asyncio.create_task(self._work()) for _ in range(self._concurrency))]
        return receiving

    async def _work(self) -> None:
        while True:
            deliveries = await self._next()
            alone = any(map(suspect, deliveries))
            await self._quarantine.enter(alone)
            try:
                await self._handle(deliveries)
            except BrokerError as error:
                self._settlement.complaints.say(f"{self.name}: settling failed ({error}); the message comes back")
                await self._come_back(deliveries)
            except Exception:
                log.exception("%s: settling failed; the message comes back", self.name)
                await self._come_back(deliveries)
            finally:
                handling.end()
                self._quarantine.leave(alone)
                for delivery in deliveries:
                    self._ready.done(delivery)

    async def _come_back(self, deliveries: Sequence[Delivery]) -> None:
        await asyncio.sleep(TROUBLE_SECONDS)
        await self._settlement.release(deliveries)

    async def _next(self) -> list[Delivery]:
        """The next delivery; for a batch handler as many as come within `batch_wait`."""
        if self._size == 1:
            return [await self._ready.get()]
        async with self._collecting:
            deliveries = [await self._ready.get()]
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.batch_wait):
                    while len(deliveries) < self._size:
                        deliveries.append(await self._ready.get())
            return deliveries

    async def _handle(self, deliveries: Sequence[Delivery]) -> None:
        error: BaseException
        if len(deliveries) > 1 and any(map(suspect, deliveries)):
            return await self._one_by_one(deliveries)
        if self._dedup and not (deliveries := await self._dedup.new(deliveries)):
            return
        messages = [delivery.message for delivery in deliveries]
        handling.begin(self.exchange, self.id, messages)
        try:
            for delivery in deliveries:
                check(delivery)
            value = await self._run(messages)
            for message in messages:
                if id := reply_to(message):
                    await self.broker.send(REPLIES, id, result(message, value, self.id))
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if self._stopping or (task and task.cancelling()):
                raise  # a shutdown is no attempt
            error = cancelled
        except Exception as failure:
            error = failure
        else:
            if self._dedup:  # before the acknowledgement: a crash between leads to neither a loss nor a repeat
                await self._dedup.remember(deliveries)
            return self._settlement.acknowledge(deliveries)
        if len(deliveries) == 1:
            return await self._fail(deliveries[0], error)
        await self._one_by_one(deliveries)  # one bad message does not take the others with it

    async def _fail(self, delivery: Delivery, error: BaseException) -> None:
        """The error goes to who asked; if nobody has, or is there any more, the message is retried or buried."""
        message = delivery.message
        id = reply_to(message)
        if id and await self.broker.send(REPLIES, id, failure(message, error, self.id)):
            self._settlement.answered(delivery, error)
        else:
            await self._settlement.fail(delivery, error)

    async def _one_by_one(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            await self._handle([delivery])

    async def drain(self, grace: float) -> None:
        """Stop receiving, let running handlers finish within `grace` seconds and put the rest back."""
        self._stopping = True
        await self._receiver.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._settlement.empty()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._settlement.finish()
        if self._dedup:
            await self._dedup.close()
