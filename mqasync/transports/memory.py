"""Queues in the memory of this process, for tests and single-process services; nothing survives it.

URL: memory: or memory:NAME. Transports with the same URL share their queues, which live as long
    as one of them is open.
Options: none.
Delivery: at least once within the process; a message stays in flight until it is acknowledged or
    requeued, or its transport is closed.
Order: first in, first out with one consumer and no retries; requeued messages come first.
Delay: exact.
Dead letters: a queue like any other, "id.dead".
What it cannot do: survive the process, serve another process or a second event loop, count
    redeliveries after a crash.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress

from ..errors import ConfigurationError, NoSuchQueue, Unroutable
from ..message import Message
from ..transport import Delivery, Features, Options, QueueStats
from .common.envelope import pack, unpack
from .common.table import AHEAD
from .common.url import check_options

FIRST = 0.0
"""The due time of requeued messages: before all others, in their old order."""


class Queue:
    """Waiting messages, as a heap of (due, number, envelope, body), and the receivers to wake when that changes.

    A message is stored as bytes, as with any other broker: handlers do not share objects.
    """

    def __init__(self) -> None:
        self.bound = False
        self.deleted = False
        self.waiting: list[tuple[float, int, bytes, bytes]] = []
        self.subscriptions: set[MemorySubscription] = set()
        self.numbers = itertools.count()

    def put(self, due: float, number: int, envelope: bytes, body: bytes) -> None:
        """Let a message be received from `due` on; among those due at the same time the lower number comes first."""
        heapq.heappush(self.waiting, (due, number, envelope, body))
        self.wake()

    def put_all(self, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Put each as bytes."""
        due = time.monotonic() + delay
        for message in messages:
            self.put(due if delay else due - AHEAD * message.priority, next(self.numbers), pack(message), message.body)

    def wake(self) -> None:
        """Let all receivers look again."""
        for subscription in self.subscriptions:
            subscription.changed.set()


class Broker:
    """The queues that all transports with one URL share, by (exchange, id)."""

    def __init__(self) -> None:
        self.queues: dict[tuple[str, str], Queue] = {}


BROKERS: weakref.WeakValueDictionary[str, Broker] = weakref.WeakValueDictionary()


class MemoryTransport:
    """One user of the queues behind one memory: URL."""

    features = Features(
        durable=False,
        shared=False,
        counts_returns=False,
        priorities=True,
        max_bytes=128 * 1024 * 1024,
        cancellable_receive=True,
    )
    errors = ()
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options."""
        self._name = url.removeprefix("memory:")
        if "?" in self._name:
            raise ConfigurationError(f"{url!r} has a query, but memory: URLs have none: write memory: or memory:NAME")
        check_options(options, {}, "memory:")

    async def open(self) -> None:
        """Join the other transports with this URL, or be the first."""
        self._broker = BROKERS.setdefault(self._name, Broker())
        self._subscriptions: list[MemorySubscription] = []

    async def ping(self) -> None:
        """Nothing to do."""

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Create the queue; once bound it stays bound."""
        queue = self._broker.queues.setdefault((exchange, id), Queue())
        queue.bound = queue.bound or bound

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Put a copy of each message into every bound queue."""
        queues = [queue for (name, _), queue in self._broker.queues.items() if name == exchange and queue.bound]
        if not queues:
            raise Unroutable(f"no queue is bound to exchange {exchange!r}")
        for queue in queues:
            queue.put_all(messages)
        await asyncio.sleep(0)  # a publisher in a loop lets the others run

    async def bound(self, exchange: str) -> bool:
        """True: publish itself raises Unroutable."""
        return True

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Put a copy of each message into that one queue."""
        self._queue(exchange, id).put_all(messages, delay)
        await asyncio.sleep(0)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> MemorySubscription:
        """Start to receive."""
        subscription = MemorySubscription(exchange, self._queue(exchange, id))
        self._subscriptions.append(subscription)
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count the waiting messages, without those in flight."""
        queue = self._queue(exchange, id)
        waiting = sum(due <= time.monotonic() for due, *_ in queue.waiting)
        return QueueStats(waiting, len(queue.waiting) - waiting, len(queue.subscriptions))

    async def queues(self) -> list[tuple[str, str]] | None:
        """All of them."""
        return list(self._broker.queues)

    async def delete(self, exchange: str, id: str) -> None:
        """Forget the queue and its messages."""
        queue = self._broker.queues.pop((exchange, id), Queue())
        queue.deleted = True
        queue.wake()

    async def close(self) -> None:
        """Leave; the last transport to leave drops the queues."""
        for subscription in self._subscriptions:
            subscription.leave()
        del self._broker

    def _queue(self, exchange: str, id: str) -> Queue:
        queue = self._broker.queues.get((exchange, id))
        if queue is None:
            raise NoSuchQueue(f"exchange {exchange!r} has no queue {id!r}")
        return queue


class MemorySubscription:
    """One consumer of one queue, with its messages in flight by number."""

    lease: float | None = None

    def __init__(self, exchange: str, queue: Queue) -> None:
        self.changed = asyncio.Event()
        self._exchange, self._queue = exchange, queue
        self._held: dict[int, tuple[bytes, bytes]] = {}
        queue.subscriptions.add(self)

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take the messages that are due, oldest first; if none is, wait for a change, a due time or the timeout."""
        deadline = time.monotonic() + timeout
        await asyncio.sleep(0)  # consumers of a full queue take turns
        while True:
            if self._queue.deleted:
                raise NoSuchQueue("the queue was deleted")
            now = time.monotonic()
            if (deliveries := self._take(limit, now)) or now >= deadline:
                return deliveries
            due = self._queue.waiting[0][0] if self._queue.waiting else deadline
            self.changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(deadline, due) - now):
                    await self.changed.wait()

    def _take(self, limit: int, now: float) -> list[Delivery]:
        waiting = self._queue.waiting
        deliveries: list[Delivery] = []
        while waiting and waiting[0][0] <= now and len(deliveries) < limit:
            _, number, envelope, body = heapq.heappop(waiting)
            self._held[number] = envelope, body
            message, unreadable = unpack(self._exchange, envelope, body)
            deliveries.append(Delivery(message, tag=number, unreadable=unreadable))
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Forget them."""
        for delivery in deliveries:
            self._held.pop(delivery.tag, None)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Requeue them at the front."""
        for delivery in deliveries:
            if held := self._held.pop(delivery.tag, None):
                self._queue.put(FIRST, delivery.tag, *held)

    async def close(self) -> None:
        """Stop receiving."""
        self.leave()

    def leave(self) -> None:
        """End the subscription; messages in flight are requeued at the front."""
        self._queue.subscriptions.discard(self)
        for number, held in self._held.items():
            self._queue.put(FIRST, number, *held)
        self._held.clear()
