"""What one consumer of Kafka has read and not delivered, oldest first, and what is not due yet; it reads nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.structs import TopicPartition

from ..message import Message
from .due_heap import DueHeap
from .kafka_message import to_message
from .offset_tracker import OffsetTracker

TOO_FAR_BEHIND = 10_000  # settled messages between a delayed one and the end of its partition


class Item(NamedTuple):
    """A message that was read, and where it was."""

    order: float
    tracker: OffsetTracker
    offset: int
    message: Message


class Backlog:
    """Messages of several partitions, brought into one order by their timestamps."""

    def __init__(self, exchange: str) -> None:
        self._exchange = exchange
        self._ready: DueHeap[Item] = DueHeap()
        self._delayed: DueHeap[Item] = DueHeap()

    def __len__(self) -> int:
        """How many could be delivered; those that are not due yet do not count."""
        return len(self._ready)

    @property
    def next_due(self) -> float:
        """When the next delayed one is due."""
        return self._delayed.next_due

    def keep(self, records: Sequence[Any], trackers: Mapping[TopicPartition, OffsetTracker]) -> None:
        """Put in what was read, but not what is settled or in hand."""
        now = time.time()
        for record in records:
            tracker = trackers[TopicPartition(record.topic, record.partition)]
            if tracker.read(record.offset):
                message, due = to_message(self._exchange, record)
                order = due or min(record.timestamp / 1000, now)
                heap = self._delayed if due > now else self._ready
                heap.push(order, Item(order, tracker, record.offset, message))

    def put_back(self, item: Item) -> None:
        """Let it be taken again, before everything that is newer."""
        self._ready.push(item.order, item)

    def take(self, limit: int) -> list[Item]:
        """What is due and still ours, oldest first."""
        now = time.time()
        while self._delayed.next_due <= now:
            self._ready.push(*self._delayed.pop())
        taken: list[Item] = []
        while self._ready and len(taken) < limit:
            _, item = self._ready.pop()
            if item.tracker.alive:
                taken.append(item)
        return taken

    def take_far_behind(self, trackers: Mapping[TopicPartition, OffsetTracker]) -> list[tuple[float, Item]]:
        """The delayed ones for whose sake much that is settled would be read again, and when they are due."""
        pinned = {tracker for tracker in trackers.values() if tracker.settled_behind_a_gap > TOO_FAR_BEHIND}
        return self._delayed.take(lambda item: item.tracker in pinned) if pinned else []
