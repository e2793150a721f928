"""The subscription of transports/kafka.py: a member of a queue's group and what it holds; nothing is declared here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import aiokafka
from aiokafka import errors as kafka
from msgspec.structs import replace

from ..errors import BrokerError, BrokerLost
from ..message import Message
from ..transport import Delivery
from .due_heap import DueHeap
from .kafka_assignment import Assignment
from .kafka_errors import broker_errors
from .kafka_message import to_message
from .kafka_requests import Committed
from .offset_tracker import OffsetTracker

LOOK_SECONDS = 1.0  # how long one look for records waits; nothing depends on it
TOO_FAR_BEHIND = 10_000  # settled messages between a delayed one and the end of its partition
SendAgain = Callable[[Message, float], Awaitable[None]]


class Item(NamedTuple):
    """A message that was read, and where it was."""

    order: float
    tracker: OffsetTracker
    offset: int
    message: Message


class KafkaSubscription:
    """One consumer. What it reads waits in `_ready`, oldest first, or in `_delayed` until it is due."""

    lease: float | None = None

    def __init__(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        exchange: str,
        prefetch: int,
        committed: Callable[[], Awaitable[Committed]],
        send_again: SendAgain,
    ) -> None:
        self._consumer, self._exchange, self._prefetch, self._send_again = consumer, exchange, prefetch, send_again
        self._ready: DueHeap[Item] = DueHeap()
        self._delayed: DueHeap[Item] = DueHeap()
        self._held: set[tuple[OffsetTracker, int]] = set()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = self._left = False
        self._lost = ""
        self._reading: asyncio.Task[None] | None = None
        self.assignment = Assignment(consumer, committed, self._changed.set, self.lose)

    async def open(self, topics: Sequence[str]) -> None:
        """Join the group, and return when it has given us our partitions; raises what aiokafka raises."""
        self._consumer.subscribe(topics, listener=self.assignment)
        await self._consumer.start()
        await self.assignment.ours.wait()
        self._reading = asyncio.create_task(self._read_always())

    def lose(self, reason: str) -> None:
        """Let everything raise BrokerLost."""
        self._lost = self._lost or reason
        self._changed.set()

    async def _read_always(self) -> None:
        try:
            while True:
                self._room.clear()
                room = self._prefetch - len(self._ready)
                if room <= 0:
                    await self._room.wait()
                    continue
                await self.assignment.ours.wait()
                with broker_errors():
                    read = await self._consumer.getmany(timeout_ms=int(LOOK_SECONDS * 1000), max_records=room)
                if self.assignment.ours.is_set():  # else all of it is read again, from where the trackers are
                    self._keep([record for records in read.values() for record in records])
                    await self._bring_nearer()
        except BrokerError as error:
            self.lose(str(error))

    def _keep(self, records: Sequence[Any]) -> None:
        now = time.time()
        for record in records:
            tracker = self.assignment.trackers[aiokafka.TopicPartition(record.topic, record.partition)]
            if tracker.read(record.offset):
                message, due = to_message(self._exchange, record)
                order = due or min(record.timestamp / 1000, now)
                heap = self._delayed if due > now else self._ready
                heap.push(order, Item(order, tracker, record.offset, message))
        if records:
            self._changed.set()

    async def _bring_nearer(self) -> None:
        """Write delayed messages anew that make the group keep too much behind them."""
        pinned = [one for one in self.assignment.trackers.values() if one.settled_behind_a_gap > TOO_FAR_BEHIND]
        for due, item in self._delayed.take(lambda item: item.tracker in pinned) if pinned else ():
            await self._send_again(item.message, due - time.time())
            item.tracker.settle(item.offset)
            self.assignment.settled()

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        deadline = time.monotonic() + timeout
        while not self._lost and not self._closed:
            self._changed.clear()
            deliveries = self._take(limit)
            pause = deadline - time.monotonic()
            if deliveries or pause <= 0:
                return deliveries
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, max(0.0, self._delayed.next_due - time.time()))):
                    await self._changed.wait()
        self._check()
        return []

    def _take(self, limit: int) -> list[Delivery]:
        """What is due and ours, oldest first."""
        now = time.time()
        while self._delayed.next_due <= now:
            self._ready.push(*self._delayed.pop())
        taken: list[Delivery] = []
        while self._ready and len(taken) < limit and len(self._held) < self._prefetch and self.assignment.ours.is_set():
            _, item = self._ready.pop()
            if item.tracker.alive:
                self._held.add((item.tracker, item.offset))
                taken.append(Delivery(item.message, self, item))
        self._room.set()
        return taken

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
                self._ready.push(item.order, item)
        await self._let_go(deliveries)

    async def _let_go(self, deliveries: Sequence[Delivery]) -> None:
        self._held.difference_update((delivery.tag.tracker, delivery.tag.offset) for delivery in deliveries)
        self.assignment.settled()
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
        if not self._held:  # else we stay in the group, to commit what is settled later
            await self.leave()

    async def leave(self) -> None:
        """Commit and leave the group: its other members get our partitions at once."""
        if self._left:
            return
        self._left = True
        if self._reading:
            self._reading.cancel()
        with suppress(kafka.KafkaError, OSError):
            await self.assignment.end()
            await self._consumer.stop()
