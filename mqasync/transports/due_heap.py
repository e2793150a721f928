"""DueHeap: things that wait for their time, for transports whose broker cannot delay; no broker's code, no clock."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class DueHeap(Generic[T]):
    """Items by the time they are due; those due at the same time come out as they were put in."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due(self) -> float:
        """When the first one is due; infinity when there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def push(self, due: float, item: T) -> None:
        """Put one in."""
        heapq.heappush(self._heap, (due, next(self._numbers), item))

    def pop(self) -> tuple[float, T]:
        """Take the first one out, and when it is due. Raises IndexError when there is none."""
        due, _, item = heapq.heappop(self._heap)
        return due, item

    def take(self, wanted: Callable[[T], bool]) -> list[tuple[float, T]]:
        """Take out every one that is `wanted`, and when it is due; looks at all of them."""
        taken = [(due, item) for due, _, item in self._heap if wanted(item)]
        self._heap = [entry for entry in self._heap if not wanted(entry[2])]
        heapq.heapify(self._heap)
        return taken
