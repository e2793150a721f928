"""What is held until its time, earliest first; no clock, no broker and no message here."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class DelayHeap(Generic[T]):
    """Items by when they are due, in whatever unit the caller counts; of equals the first pushed comes first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._pushed = 0

    def push(self, due: float, item: T) -> None:
        """Hold `item` until `due`."""
        self._pushed += 1
        heapq.heappush(self._heap, (due, self._pushed, item))

    def pop_due(self, now: float) -> list[T]:
        """Take out everything that is due at `now`."""
        due: list[T] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        return due

    @property
    def next_due(self) -> float | None:
        """When the earliest is due; None when nothing is held."""
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return len(self._heap)
