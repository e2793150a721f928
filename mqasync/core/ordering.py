"""Lanes: received messages that wait for a handler, with `ordered` one at a time for each key; nothing is handled."""

from __future__ import annotations

from collections import deque

from ..transport import Delivery


class Lanes:
    """First in, first out. If `ordered`, only one of the messages with the same key is taken at a time.

    A message without a key does not wait for others.
    """

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._free: deque[Delivery] = deque()
        self._behind: dict[str, list[Delivery]] = {}  # keys that are free or taken: what waits behind them

    def __len__(self) -> int:
        """How many can be taken now."""
        return len(self._free)

    def put(self, delivery: Delivery) -> None:
        """Add one at the end of its lane."""
        key = delivery.message.key if self._ordered else None
        if key is None:
            self._free.append(delivery)
        elif key in self._behind:
            self._behind[key].append(delivery)
        else:
            self._behind[key] = []
            self._free.append(delivery)

    def take(self, limit: int) -> list[Delivery]:
        """The first ones."""
        free = self._free
        return [free.popleft() for _ in range(min(limit, len(free)))]

    def done(self, delivery: Delivery) -> None:
        """A message that was taken is done: the next one with its key is free."""
        if self._ordered and delivery.message.key is not None:
            for waiting in self._behind.pop(delivery.message.key):
                self.put(waiting)

    def take_all(self) -> list[Delivery]:
        """Take out all messages that no handler has begun."""
        taken = self.take(len(self._free))
        for delivery in list(taken):
            if self._ordered and delivery.message.key is not None:
                taken += self._behind.pop(delivery.message.key)
        for waiting in self._behind.values():  # of the keys that are taken
            taken += waiting
            waiting.clear()
        return taken
