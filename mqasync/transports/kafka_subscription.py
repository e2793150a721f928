"""The subscription of transports/kafka.py: a member of a queue's group and what it holds; nothing is declared here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import aiokafka
from msgspec.structs import replace

from ..errors import BrokerLost, MqasyncError
from ..message import Message
from ..transport import Delivery
from .kafka_assignment import Assignment
from .kafka_backlog import Backlog, Item
from .kafka_errors import broker_errors, stopped
from .kafka_requests import Committed
from .offset_tracker import OffsetTracker

LOOK_SECONDS = 1.0  # how long one look for records waits; nothing depends on it
CLOSE_SECONDS = 3.0
SendAgain = Callable[[Message, float], Awaitable[None]]


class KafkaSubscription:
    """One consumer, which reads as long as less than the prefetch is waiting to be delivered."""

    lease: float | None = None

    def __init__(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        exchange: str,
        id: str,
        prefetch: int,
        committed: Callable[[], Awaitable[Committed]],
        send_again: SendAgain,
    ) -> None:
        self._consumer, self._prefetch, self._send_again = consumer, prefetch, send_again
        self.queue = (exchange, id)
        self._backlog = Backlog(exchange)
        self._held: set[tuple[OffsetTracker, int]] = set()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False
        self._lost = ""
        self._patience = CLOSE_SECONDS
        self._reading: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._assignment = Assignment(consumer, committed, self._changed.set, self._end)

    async def open(self, topics: Sequence[str]) -> None:
        """Join the group, and return when it has given us our partitions; raises what aiokafka raises."""
        self._consumer.subscribe(topics, listener=self._assignment)
        await self._consumer.start()
        await self._assignment.ours.wait()
        self._reading = asyncio.create_task(self._read_always())

    def lose(self, reason: str) -> None:
        """Let everything raise BrokerLost; nobody answers any more."""
        self._lost = self._lost or reason
        self._patience = 0.0
        self._changed.set()

    def _end(self, reason: str) -> None:
        """The same, and leave the group, which is in the way of who makes a deleted queue again."""
        self._lost = self._lost or reason
        self._changed.set()
        self._leaving = self._leaving or asyncio.create_task(self._leave())

    async def _read_always(self) -> None:
        try:
            while True:
                self._room.clear()
                room = self._prefetch - len(self._backlog)
                if room <= 0:
                    await self._room.wait()
                    continue
                await self._assignment.ours.wait()
                with broker_errors():
                    read = await self._consumer.getmany(timeout_ms=int(LOOK_SECONDS * 1000), max_records=room)
                if self._assignment.ours.is_set():  # else all of it is read again, from where the trackers are
                    self._backlog.keep([record for records in read.values() for record in records], self._trackers)
                    self._changed.set()
                    await self._bring_nearer()
        except Exception as error:  # whatever it is, who waits in receive has to be told
            self.lose(str(error) if isinstance(error, MqasyncError) else repr(error))

    @property
    def _trackers(self) -> dict[aiokafka.TopicPartition, OffsetTracker]:
        return self._assignment.trackers

    async def _bring_nearer(self) -> None:
        """Write delayed messages anew that keep the group from committing much that is behind them."""
        for due, item in self._backlog.take_far_behind(self._trackers):
            await self._send_again(item.message, max(0.0, due - time.time()))
            item.tracker.settle(item.offset)
            self._assignment.settled()

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        deadline = time.monotonic() + timeout
        while not self._lost and not self._closed:
            self._changed.clear()
            deliveries = self._take(limit)
            pause = deadline - time.monotonic()
            if deliveries or pause <= 0:
                return deliveries
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, max(0.0, self._backlog.next_due - time.time()))):
                    await self._changed.wait()
        self._check()
        return []

    def _take(self, limit: int) -> list[Delivery]:
        if not self._assignment.ours.is_set():
            return []  # perhaps it is somebody else's in a moment
        items = self._backlog.take(min(limit, self._prefetch - len(self._held)))
        self._held.update((item.tracker, item.offset) for item in items)
        self._room.set()
        return [Delivery(item.message, self, item) for item in items]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._check()
        for delivery in deliveries:
            delivery.tag.tracker.settle(delivery.tag.offset)
        await self._let_go(deliveries)

    async def retry(self, delivery: Delivery, delay: float) -> None:
        self._check()
        if delivery.tag.tracker.is_unsettled(delivery.tag.offset):
            await self._send_again(replace(delivery.message, attempt=delivery.message.attempt + 1), delay)
        await self.ack([delivery])

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        self._check()
        for delivery in deliveries:
            item: Item = delivery.tag
            if (item.tracker, item.offset) in self._held and item.tracker.is_unsettled(item.offset):
                self._backlog.put_back(item)
        await self._let_go(deliveries)

    async def _let_go(self, deliveries: Sequence[Delivery]) -> None:
        self._held.difference_update((delivery.tag.tracker, delivery.tag.offset) for delivery in deliveries)
        self._assignment.settled()
        self._changed.set()  # there is room below the prefetch
        if self._closed and not self._held:
            await self.leave()

    def _check(self) -> None:
        if self._lost:
            raise BrokerLost(self._lost)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        pass  # the group keeps its partitions for us as long as our heartbeats come

    async def close(self) -> None:
        self._closed = True
        self._changed.set()
        if self._reading:
            self._reading.cancel()
        if not self._held or self._lost:  # else we stay in the group, to commit what is settled later
            await self.leave()

    async def leave(self) -> None:
        """Commit and leave the group: its other members get our partitions at once. In an outage nobody waits."""
        self._leaving = self._leaving or asyncio.create_task(self._leave())
        await asyncio.wait([self._leaving], timeout=self._patience)

    async def _leave(self) -> None:
        if self._reading:
            self._reading.cancel()
        await self._assignment.end(commit=not self._lost)
        await stopped(self._consumer.stop(), self._consumer._client)
