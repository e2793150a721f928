"""Lanes: what was received and waits for a worker, one after another for each key if so wished; nothing is handled."""

from __future__ import annotations

import asyncio

from .transport import Delivery


class Lanes:
    """First in, first out. If `ordered`, of the messages with one key only one is with a worker at a time.

    A message without a key waits for none. No worker waits for a key: what has to wait lies here.
    """

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._free: asyncio.Queue[Delivery] = asyncio.Queue()
        self._behind: dict[str, list[Delivery]] = {}  # keys that are free or with a worker: what waits behind them
        self.get = self._free.get

    def put(self, delivery: Delivery) -> None:
        """Add one at the end of its lane."""
        key = delivery.message.key if self._ordered else None
        if key is None:
            self._free.put_nowait(delivery)
        elif key in self._behind:
            self._behind[key].append(delivery)
        else:
            self._behind[key] = []
            self._free.put_nowait(delivery)

    def done(self, delivery: Delivery) -> None:
        """A worker has done with it: the next of its key is free."""
        if self._ordered and delivery.message.key is not None:
            for waiting in self._behind.pop(delivery.message.key):
                self.put(waiting)

    def take_all(self) -> list[Delivery]:
        """Take out all that no worker has begun."""
        taken = [self._free.get_nowait() for _ in range(self._free.qsize())]
        for delivery in list(taken):
            if self._ordered and delivery.message.key is not None:
                taken += self._behind.pop(delivery.message.key)
        for waiting in self._behind.values():  # of the keys that are with a worker
            taken += waiting
            waiting.clear()
        return taken
