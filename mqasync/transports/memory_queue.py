"""One queue of transports/memory.py and who consumes it; which queues there are is known there."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from ..errors import BrokerLost
from ..message import Message
from ..transport import Delivery

FIRST = 0.0
"""The due time of what was given back: before everything else, there in its old order."""


class Queue:
    """What waits, as a heap of (due, number, message), and who is to be told when that changes."""

    def __init__(self) -> None:
        self.bound = False
        self.expires: float | None = None
        self.used = time.monotonic()  # when somebody was last seen to be subscribed
        self.waiting: list[tuple[float, int, Message]] = []
        self.subscriptions: list[MemorySubscription] = []
        self.numbers = itertools.count()

    def expired(self, now: float) -> bool:
        """True once nobody has been subscribed for `expires` seconds."""
        if self.expires is None or self.subscriptions:
            self.used = now
            return False
        return now - self.used > self.expires

    def put(self, due: float, number: int, message: Message) -> None:
        """Let `message` be received from `due` on; among those due at once the lower number comes first."""
        heapq.heappush(self.waiting, (due, number, message))
        for subscription in self.subscriptions:
            subscription.changed.set()


class MemorySubscription:
    """One consumer of one queue and what it holds."""

    lease: float | None = None

    def __init__(self, queue: Queue, prefetch: int) -> None:
        self.changed = asyncio.Event()
        self._queue = queue
        self._prefetch = prefetch
        self._held: dict[int, Message] = {}
        self._closed = False
        self._lost = ""  # why
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
            raise BrokerLost(self._lost)
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
        self._leave()

    def lose(self, why: str) -> None:
        """End with the transport or the queue: what is held goes back to the front."""
        self._lost = self._lost or why
        self._leave()
        for number, message in self._held.items():
            self._queue.put(FIRST, number, message)
        self._held.clear()

    def _leave(self) -> None:
        self._closed = True
        self.changed.set()
        if self in self._queue.subscriptions:
            self._queue.subscriptions.remove(self)

    def _settle(self, delivery: Delivery) -> bool:
        """Let go of a delivery; False if it was settled before."""
        if self._lost:
            raise BrokerLost(self._lost)
        self.changed.set()  # there is room below the prefetch
        return self._held.pop(delivery.tag, None) is not None
