"""Channel: the life of a message on one queue, receive, handle, settle; no protocol, no signals, no loop of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from .backoff import pause
from .broker import Broker
from .errors import BrokerError, BrokerLost, BrokerRefused, InvalidMessage, Reject
from .message import Message
from .settlement import Observe, Settlement
from .step import Step
from .transport import Delivery, Subscription

log = logging.getLogger("mqasync")

RECEIVE_SECONDS = 5.0  # how long one receive may wait; only tidiness depends on it
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before a lost subscription is taken up again
MAX_RETURNS = 20  # times a message may come back from dead processes: RabbitMQ 4's default delivery limit


def ignore(event: str, message: Message) -> None:
    """Observe nothing."""


class Channel:
    """One consumer at work, from `start` to `drain`: `concurrency` workers take what one receiver brings.

    Every delivery is settled once: acknowledged after its step has returned, given back for a
    later attempt, or buried and then acknowledged.
    """

    def __init__(self, step: Step, broker: Broker, observe: Observe = ignore) -> None:
        self.step = step
        self.exchange, self.id = step.consumer.exchange, step.consumer.id
        self.name = f"{self.exchange}/{self.id}"
        options = self._options = step.consumer.options
        self._broker = broker
        self._size = options.batch_size if step.signature.batch else 1
        self._concurrency = options.concurrency or (1 if step.signature.batch else 10)
        self._prefetch = max(self._size, options.prefetch or 2 * self._concurrency * self._size)
        self._settlement = Settlement(step.consumer, self._prefetch, broker, observe)
        self.counts = self._settlement.counts
        self._ready: asyncio.Queue[Delivery] = asyncio.Queue()
        self._collecting = asyncio.Lock()
        self._stopping = False
        self._subscription: Subscription | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def held(self) -> int:
        """Deliveries in hand, not settled."""
        return len(self._settlement.held)

    async def declare(self) -> None:
        """Make sure that the queue and its dead letters exist. Raises BrokerRefused."""
        await self._settlement.declare_dead()
        await self._broker.call(lambda transport: transport.declare(self.exchange, self.id))

    async def depth(self) -> int:
        """How many messages are in the queue, as Transport.depth counts them."""
        return await self._broker.call(lambda transport: transport.depth(self.exchange, self.id))

    def start(self) -> asyncio.Task[None]:
        """Begin to work; the task ends after `drain`, or with the error that ends the channel for good."""
        receiver = asyncio.create_task(self._receive())
        self._tasks = [receiver, *(asyncio.create_task(self._work()) for _ in range(self._concurrency))]
        return receiver

    async def _receive(self) -> None:
        """Receive until `drain`, taking the subscription up again whenever it is lost."""
        failures = 0
        while not self._stopping:
            received = self.counts.received
            try:
                await self._receive_once()
            except BrokerError as error:
                if isinstance(error, BrokerRefused) and self._subscription is None:
                    raise  # it never worked
                failures = 1 if self.counts.received > received else failures + 1
                self._settlement.complaints.say(f"{self.name}: the subscription is lost ({error}); taking it up again")
                await asyncio.sleep(pause(failures, FIRST_PAUSE, LONGEST_PAUSE))

    async def _receive_once(self) -> None:
        """The life of one subscription. Raises BrokerLost at its end, or returns when stopping."""
        await self.declare()
        transport = await self._broker.connected()
        try:
            subscription = await transport.subscribe(self.exchange, self.id, self._prefetch)
        except BrokerLost as error:
            self._broker.lost(transport, error)
            raise
        self._subscription = subscription
        keeper = asyncio.create_task(self._settlement.keep(subscription))
        try:
            while not self._stopping:
                room = await self._settlement.room()
                for delivery in await subscription.receive(room, RECEIVE_SECONDS):
                    self._settlement.take(delivery)
                    self._ready.put_nowait(delivery)
        except BrokerLost:
            self._settlement.forget(self._waiting())  # they are no longer ours and come again
            raise
        finally:
            keeper.cancel()
            await subscription.close()

    def _waiting(self) -> list[Delivery]:
        """Take out what no worker has begun."""
        return [self._ready.get_nowait() for _ in range(self._ready.qsize())]

    async def _work(self) -> None:
        while True:
            deliveries = await self._next()
            try:
                await self._handle(deliveries)
            except Exception:
                log.exception("%s: settling failed; the message comes back", self.name)
                await asyncio.sleep(LONGEST_PAUSE)
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
        try:
            for delivery in deliveries:
                check(delivery)
            await self.step.run([delivery.message for delivery in deliveries])
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if self._stopping or (task and task.cancelling()):
                raise  # a shutdown is no attempt
            error = cancelled
        except Exception as failure:
            error = failure
        else:
            return self._settlement.acknowledge(deliveries)
        if len(deliveries) == 1:
            return await self._settlement.fail(deliveries[0], error)
        for delivery in deliveries:  # so that one bad message does not take the others with it
            await self._handle([delivery])

    async def drain(self, grace: float) -> None:
        """Stop receiving, let running handlers finish within `grace` seconds and put the rest back."""
        self._stopping = True
        if self._subscription:
            await self._subscription.close()
        await self._settlement.release(self._waiting())
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._settlement.empty()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._settlement.finish()


def check(delivery: Delivery) -> None:
    """Raise if it must not get to a handler."""
    if delivery.unreadable:
        raise InvalidMessage(delivery.unreadable)
    if delivery.returned > MAX_RETURNS:
        raise Reject(f"its process died {delivery.returned} times with it in hand")
