"""Channel: the life of a message on one queue, receive, handle, settle; no protocol, no signals, no loop of its own."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby

import msgspec

from .backoff import pause
from .broker import Broker
from .dead import dead_letter
from .errors import BrokerLost, InvalidMessage, Reject
from .message import Message
from .step import Step
from .transport import DEAD, Delivery, Subscription

log = logging.getLogger("mqasync")

RECEIVE_SECONDS = 5.0  # how long one receive may wait; only tidiness depends on it
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before a lost subscription is taken up again
ACK_SECONDS = 0.002  # how long a lone acknowledgement waits for company
MAX_RETURNS = 20  # times a message may come back from dead processes: RabbitMQ 4's default delivery limit


Observe = Callable[[str, Message], None]
"""Told what became of each message: "acknowledged", "retried" or "buried"."""


def ignore(event: str, message: Message) -> None:
    """Observe nothing."""


class Counts(msgspec.Struct):
    """What has happened on a channel since it started."""

    received: int = 0
    handled: int = 0
    retried: int = 0
    buried: int = 0
    last_error: str = ""


class Channel:
    """One consumer at work: `concurrency` workers take what one receiver brings.

    It works from `start` to `drain`. Every delivery is settled once: acknowledged after its step
    has returned, given back for a later attempt, or buried and then acknowledged.
    """

    def __init__(self, step: Step, broker: Broker, observe: Observe = ignore) -> None:
        self.step = step
        self.exchange, self.id = step.consumer.exchange, step.consumer.id
        self.name = f"{self.exchange}/{self.id}"
        self.counts = Counts()
        options = self._options = step.consumer.options
        self._broker = broker
        self._observe = observe
        self._size = options.batch_size if step.signature.batch else 1
        self._concurrency = options.concurrency or (1 if step.signature.batch else 10)
        self._prefetch = max(self._size, options.prefetch or 2 * self._concurrency * self._size)
        self._ready: asyncio.Queue[Delivery] = asyncio.Queue()
        self._held: dict[Delivery, None] = {}  # in hand and not settled, oldest first
        self._done: list[Delivery] = []  # handled, to be acknowledged together
        self._flush_timer: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()
        self._collecting = asyncio.Lock()
        self._stopping = False
        self._subscription: Subscription | None = None
        self.receiver: asyncio.Task[None] | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._flushes: set[asyncio.Task[None]] = set()
        self._said_at = 0.0
        self._unsaid = 0

    @property
    def held(self) -> int:
        """Deliveries in hand, not settled."""
        return len(self._held)

    async def declare(self) -> None:
        """Make sure that the queue and its dead letters exist. Raises BrokerRefused."""
        await self._declare_dead()
        await self._broker.call(lambda transport: transport.declare(self.exchange, self.id))

    async def _declare_dead(self) -> None:
        await self._broker.call(lambda transport: transport.declare(self.exchange, self.id + DEAD, bound=False))

    async def depth(self) -> int:
        """How many messages wait in the queue, the delayed ones included."""
        return await self._broker.call(lambda transport: transport.depth(self.exchange, self.id))

    def start(self) -> asyncio.Task[None]:
        """Begin to work; the task ends after `drain`, or with the error that ends the channel for good."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._concurrency)]
        self.receiver = asyncio.create_task(self._run())
        return self.receiver

    async def _run(self) -> None:
        """Receive, taking the subscription up again whenever it is lost, until `drain`."""
        failures = 0
        while not self._stopping:
            before = self.counts.received
            try:
                await self._receive()
            except BrokerLost as error:
                failures = 1 if self.counts.received > before else failures + 1
                self._say(f"{self.name}: the subscription is lost ({error}); taking it up again")
                await asyncio.sleep(pause(failures, FIRST_PAUSE, LONGEST_PAUSE))

    async def _receive(self) -> None:
        """The life of one subscription. Raises BrokerLost at its end, or returns when stopping."""
        await self.declare()
        transport = await self._broker.connected()
        try:
            subscription = await transport.subscribe(self.exchange, self.id, self._prefetch)
        except BrokerLost as error:
            self._broker.lost(transport, error)
            raise
        self._subscription = subscription
        keeper = asyncio.create_task(self._keep(subscription))
        try:
            while not self._stopping:
                room = self._prefetch - len(self._held)
                if room <= 0:
                    self._settled.clear()
                    await self._settled.wait()
                    continue
                for delivery in await subscription.receive(room, RECEIVE_SECONDS):
                    self.counts.received += 1
                    self._held[delivery] = None
                    self._ready.put_nowait(delivery)
        except BrokerLost:
            self._forget(self._take_waiting())  # they are no longer ours and come again
            raise
        finally:
            keeper.cancel()
            await subscription.close()

    async def _keep(self, subscription: Subscription) -> None:
        """Renew the leases of all that is held, long before they end."""
        while subscription.lease is not None:
            await asyncio.sleep(subscription.lease / 3)
            mine = [delivery for delivery in self._held if delivery.subscription is subscription]
            if mine:
                with suppress(BrokerLost):  # receive will notice
                    await subscription.extend(mine)

    async def _work(self) -> None:
        while True:
            deliveries = await self._next()
            try:
                await self._handle(deliveries)
            except Exception:
                log.exception("%s: settling failed; the message comes back", self.name)
                await asyncio.sleep(LONGEST_PAUSE)
                await self._release(deliveries)

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
        try:
            if deliveries[0].returned > MAX_RETURNS:
                raise Reject(f"its process died {deliveries[0].returned} times with it in hand")
            await self.step.run([delivery.message for delivery in deliveries])
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if self._stopping or (task and task.cancelling()):
                raise  # a shutdown is no attempt
            error = cancelled
        except Exception as failure:
            error = failure
        else:
            self.counts.handled += len(deliveries)
            for delivery in deliveries:
                self._observe("acknowledged", delivery.message)
            self._acknowledge(deliveries)
            return
        if len(deliveries) > 1:
            for delivery in deliveries:  # so that one bad message does not take the others with it
                await self._handle([delivery])
        else:
            await self._fail(deliveries[0], error)

    async def _fail(self, delivery: Delivery, error: BaseException) -> None:
        message, options = delivery.message, self._options
        self.counts.last_error = describe(error)
        what = f"{self.name}: message {message.id}, attempt {message.attempt}: {describe(error)}"
        if isinstance(error, (Reject, InvalidMessage)) or message.attempt > options.retries:
            dead = dead_letter(message, self.id, error)
            await self._declare_dead()
            await self._broker.call(lambda transport: transport.send(self.exchange, self.id + DEAD, [dead]))
            self.counts.buried += 1
            self._observe("buried", dead)
            self._say(f"{what}; buried")
            self._acknowledge([delivery])
            return
        delay = pause(message.attempt, options.backoff, options.max_backoff)
        self.counts.retried += 1
        self._say(f"{what}; next attempt in {delay:.1f} s")
        with suppress(BrokerLost):  # then it comes back by itself
            await delivery.subscription.retry(delivery, delay)
        self._observe("retried", message)
        self._forget([delivery])

    def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge together: a quarter of the prefetch at once, fewer after ACK_SECONDS."""
        self._done.extend(deliveries)
        if len(self._done) >= self._prefetch // 4:
            self._flush()
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self._flush)

    def _flush(self) -> None:
        if self._flush_timer:
            self._flush_timer.cancel()
            self._flush_timer = None
        done, self._done = self._done, []
        if done:
            task = asyncio.create_task(self._ack(done))
            self._flushes.add(task)
            task.add_done_callback(self._flushes.discard)

    async def _ack(self, done: list[Delivery]) -> None:
        for subscription, deliveries in groupby(done, key=lambda delivery: delivery.subscription):
            with suppress(BrokerLost):  # then they come back and are handled again: at least once
                await subscription.ack(list(deliveries))
        self._forget(done)

    def _forget(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._held.pop(delivery, None)
        self._settled.set()

    def _take_waiting(self) -> list[Delivery]:
        return [self._ready.get_nowait() for _ in range(self._ready.qsize())]

    async def _release(self, deliveries: Sequence[Delivery]) -> None:
        """Put back what was not handled, not counted as an attempt."""
        for subscription, mine in groupby(deliveries, key=lambda delivery: delivery.subscription):
            with suppress(BrokerLost):  # then they come back by themselves
                await subscription.release(list(mine))
        self._forget(deliveries)

    async def drain(self, grace: float) -> None:
        """Stop receiving, let running handlers finish within `grace` seconds and put the rest back."""
        self._stopping = True
        self._settled.set()
        if self._subscription:
            await self._subscription.close()
        await self._release(self._take_waiting())
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._held:
                    self._settled.clear()
                    await self._settled.wait()
        tasks = [*self._workers, *([self.receiver] if self.receiver else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._flushes, return_exceptions=True)
        await self._release(list(self._held))

    def _say(self, text: str) -> None:
        """Warn, at most once a second however fast the messages fail."""
        if time.monotonic() - self._said_at < 1.0:
            self._unsaid += 1
            return
        more = f" (and {self._unsaid:,} like it before)" if self._unsaid else ""
        self._said_at, self._unsaid = time.monotonic(), 0
        log.warning("%s%s", text, more)


def describe(error: BaseException) -> str:
    """Kind, text and place of an error on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"
