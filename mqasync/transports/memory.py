"""Queues in the memory of this process, for tests and single-process services; nothing survives it, nothing is retried.

URL: memory: or memory:NAME. Transports with the same URL share their queues, which live as long
    as one of them is open.
Options: none.
Delivery: at least once within the process; a delivery stays held until it is settled or its
    transport is closed.
Order: first in, first out with one consumer and no retries; what is given back comes first again.
Delay: exact.
Dead letters: a queue like any other, "id.dead".
What it cannot do: survive the process, serve another process or a second event loop, count the
    deliveries that a crash returned.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from ..errors import BrokerLost, ConfigurationError, Unroutable
from ..message import Message
from ..transport import Delivery, Features, Options

FIRST = 0.0
"""The due time of what was given back: before everything else, there in its old order."""


class _Broker:
    """The queues that all transports with one URL share, by (exchange, id)."""

    def __init__(self) -> None:
        self.queues: dict[tuple[str, str], _Queue] = {}


class _Queue:
    """What waits, as a heap of (due, number, message), and who is to be told when that changes."""

    def __init__(self) -> None:
        self.bound = False
        self.waiting: list[tuple[float, int, Message]] = []
        self.subscriptions: list[MemorySubscription] = []
        self.numbers = itertools.count()

    def put(self, due: float, number: int, message: Message) -> None:
        """Let `message` be received from `due` on; among those due at once the lower number comes first."""
        heapq.heappush(self.waiting, (due, number, message))
        for subscription in self.subscriptions:
            subscription.changed.set()


_BROKERS: weakref.WeakValueDictionary[str, _Broker] = weakref.WeakValueDictionary()


class MemoryTransport:
    """One user of the queues behind one memory: URL."""

    features = Features(durable=False, shared=False, counts_returns=False, max_bytes=128 * 1024 * 1024)
    blocked = ""
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options, as the contract says."""
        self._name = url.removeprefix("memory:")
        if "?" in self._name:
            raise ConfigurationError(f"{url!r} has a query, but memory: URLs have none: write memory: or memory:NAME")
        for exchange, given in options.items():
            for name in given:
                problem = f"unknown option {name!r}: memory: has no options"
                raise ConfigurationError(problem, "exchanges", exchange, "options", name)
        self._broker: _Broker | None = None
        self._subscriptions: list[MemorySubscription] = []

    async def open(self) -> None:
        """Join the other transports with this URL, or be the first."""
        self._broker = _BROKERS.setdefault(self._name, _Broker())

    async def declare(self, exchange: str, id: str, bound: bool = True) -> None:
        """Make the queue; once bound it stays bound."""
        queue = self._queues().setdefault((exchange, id), _Queue())
        queue.bound = queue.bound or bound

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Put a copy of each message into every bound queue."""
        queues = [queue for (name, _), queue in self._queues().items() if name == exchange and queue.bound]
        if not queues:
            raise Unroutable(f"no queue is bound to exchange {exchange!r}")
        for queue in queues:
            _put_all(queue, exchange, messages, time.monotonic())
        await asyncio.sleep(0)  # a publisher in a loop lets the others run

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Put a copy of each message into that one queue."""
        _put_all(self._queue(exchange, id), exchange, messages, time.monotonic() + delay)
        await asyncio.sleep(0)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> MemorySubscription:
        """Start to receive, as the contract says."""
        subscription = MemorySubscription(self._queue(exchange, id), prefetch)
        self._subscriptions.append(subscription)
        return subscription

    async def depth(self, exchange: str, id: str) -> int:
        """Count what waits, without what is held."""
        return len(self._queue(exchange, id).waiting)

    async def close(self) -> None:
        """Give everything unsettled back and leave; the last one out takes the queues along."""
        for subscription in self._subscriptions:
            subscription.give_back()
        self._subscriptions.clear()
        self._broker = None

    def _queues(self) -> dict[tuple[str, str], _Queue]:
        if self._broker is None:
            raise BrokerLost(f"memory:{self._name} is not open")
        return self._broker.queues

    def _queue(self, exchange: str, id: str) -> _Queue:
        queue = self._queues().get((exchange, id))
        if queue is None:
            raise BrokerLost(f"there is no queue of {id!r} at exchange {exchange!r}")
        return queue


def _put_all(queue: _Queue, exchange: str, messages: Sequence[Message], due: float) -> None:
    for message in messages:
        own = replace(message, exchange=exchange, headers=dict(message.headers))  # nobody changes another's
        queue.put(due, next(queue.numbers), own)


class MemorySubscription:
    """One consumer of one queue and what it holds."""

    lease: float | None = None

    def __init__(self, queue: _Queue, prefetch: int) -> None:
        self.changed = asyncio.Event()
        self._queue = queue
        self._prefetch = prefetch
        self._held: dict[int, Message] = {}
        self._closed = self._lost = False
        queue.subscriptions.append(self)

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take what is due, oldest first; while nothing is, wait for a change, a due time or the timeout."""
        deadline = time.monotonic() + timeout
        await asyncio.sleep(0)  # consumers of a full queue take turns
        while not self._closed:
            now = time.monotonic()
            deliveries, due = self._take(limit, now)
            if deliveries or now >= deadline:
                return deliveries
            self.changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(deadline, due) - now):
                    await self.changed.wait()
        if self._lost:
            raise BrokerLost("the memory: transport was closed")
        return []

    def _take(self, limit: int, now: float) -> tuple[list[Delivery], float]:
        """The deliveries that are due and fit, and when it pays to look again."""
        waiting = self._queue.waiting
        deliveries: list[Delivery] = []
        while len(deliveries) < limit and len(self._held) < self._prefetch:
            if not waiting or waiting[0][0] > now:
                return deliveries, waiting[0][0] if waiting else float("inf")
            _, number, message = heapq.heappop(waiting)
            self._held[number] = message
            deliveries.append(Delivery(message, self, number))
        return deliveries, float("inf")

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Forget them."""
        for delivery in deliveries:
            self._settle(delivery)

    async def retry(self, delivery: Delivery, delay: float) -> None:
        """Put it back with attempt + 1."""
        if self._settle(delivery):
            again = replace(delivery.message, attempt=delivery.message.attempt + 1)
            self._queue.put(time.monotonic() + delay, delivery.tag, again)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Put them back to the front."""
        for delivery in deliveries:
            if self._settle(delivery):
                self._queue.put(FIRST, delivery.tag, delivery.message)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing to do: there is no lease."""

    async def close(self) -> None:
        """Stop receiving."""
        self._closed = True
        self.changed.set()

    def give_back(self) -> None:
        """End with the transport: what is held goes back to the front."""
        self._closed = self._lost = True
        self.changed.set()
        self._queue.subscriptions.remove(self)
        for number, message in self._held.items():
            self._queue.put(FIRST, number, message)
        self._held.clear()

    def _settle(self, delivery: Delivery) -> bool:
        """Let go of a delivery; False if it was settled before."""
        if self._lost:
            raise BrokerLost("the memory: transport was closed")
        self.changed.set()  # there is room below the prefetch
        return self._held.pop(delivery.tag, None) is not None
