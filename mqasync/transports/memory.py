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
import time
import weakref
from collections.abc import Sequence

from msgspec.structs import replace

from ..errors import BrokerLost, ConfigurationError, Unroutable
from ..message import Message
from ..transport import Features, Options, QueueStats
from .memory_queue import MemorySubscription, Queue


class _Broker:
    """The queues that all transports with one URL share, by (exchange, id)."""

    def __init__(self) -> None:
        self.queues: dict[tuple[str, str], Queue] = {}


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

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        """Make the queue; once bound it stays bound."""
        queue = self._queues().setdefault((exchange, id), Queue())
        queue.bound = queue.bound or bound
        queue.expires = expires

    async def delete(self, exchange: str, id: str) -> None:
        """Forget the queue and what is in it."""
        queue = self._queues().pop((exchange, id), None)
        for subscription in list(queue.subscriptions) if queue else ():
            subscription.lose(f"the queue of {id!r} at exchange {exchange!r} was deleted")

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

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count what waits, without what is held."""
        queue = self._queues().get((exchange, id))
        if queue is None:
            return None
        now = time.monotonic()
        waiting = sum(due <= now for due, _, _ in queue.waiting)
        return QueueStats(waiting, len(queue.waiting) - waiting, len(queue.subscriptions))

    async def queues(self) -> list[tuple[str, str]] | None:
        """All of them."""
        return list(self._queues())

    async def close(self) -> None:
        """Give everything unsettled back and leave; the last one out takes the queues along."""
        for subscription in self._subscriptions:
            subscription.lose("the memory: transport was closed")
        self._subscriptions.clear()
        self._broker = None

    def _queues(self) -> dict[tuple[str, str], Queue]:
        """Those that have not expired."""
        if self._broker is None:
            raise BrokerLost(f"memory:{self._name} is not open")
        now = time.monotonic()
        queues = self._broker.queues
        for name in [name for name, queue in queues.items() if queue.expired(now)]:
            del queues[name]
        return queues

    def _queue(self, exchange: str, id: str) -> Queue:
        queue = self._queues().get((exchange, id))
        if queue is None:
            raise BrokerLost(f"there is no queue of {id!r} at exchange {exchange!r}")
        return queue


def _put_all(queue: Queue, exchange: str, messages: Sequence[Message], due: float) -> None:
    for message in messages:
        own = replace(message, exchange=exchange, headers=dict(message.headers))  # nobody changes another's
        queue.put(due, next(queue.numbers), own)
