"""Queues in the tables of a database, as for SQLite and PostgreSQL: a row for each message and queue.

Connecting, and the SQL in which they differ, is in their own files. Parameters are written $1, $2 ...
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from ...errors import NoSuchQueue
from ...message import Message
from ...transport import Delivery, QueueStats
from .envelope import unpack

# There is a row of `queue` (queue, exchange, id, bound) for each queue, and one of `message` (n, queue, due,
# taken, released, envelope, body) for each message in it. `due`: when it can be taken. `taken`: how often it was
# taken, to fence off an owner whose lease ran out. `released`: how often of these it was requeued. No `n` and
# no `queue` is used twice: an old one never means a newer row.
DECLARE = """
INSERT INTO queue (exchange, id, bound) VALUES ($1, $2, $3)
ON CONFLICT (exchange, id) DO UPDATE SET bound = true WHERE excluded.bound AND NOT queue.bound"""
QUEUE = "SELECT queue FROM queue WHERE exchange = $1 AND id = $2"
QUEUES = "SELECT exchange, id FROM queue"
# The clock is read after the snapshot: otherwise messages published in between would count as delayed.
STATS = """
SELECT count(*), count(*) FILTER (WHERE due > (SELECT clock_timestamp()) AND taken = 0)
FROM message WHERE queue = $1"""

AHEAD = 1_000_000_000.0  # seconds that each step of priority is due earlier

Row = tuple[int, int, int, bytes | None, bytes]
"""`n`, how often it was taken, its delivery count (Delivery.returned), and the envelope and body of a message."""


class Changed(defaultdict[str, asyncio.Event]):
    """By exchange, an event that is set with its next change: get it, look for messages, then wait for it."""

    def __init__(self) -> None:
        super().__init__(asyncio.Event)

    def tell(self, *exchanges: str) -> None:
        """There may be new messages at these exchanges."""
        for exchange in exchanges:
            self.pop(exchange, asyncio.Event()).set()


class TableTransport(ABC):
    """The part of Transport that is the same for both."""

    warning = ""
    DELETE: ClassVar[str]
    """Deletes the queue and its messages."""

    def __init__(self, lease: float) -> None:
        self.lease = lease
        self.changed = Changed()

    @abstractmethod
    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        """The rows that the statement returns; a crash may undo its changes."""

    @abstractmethod
    async def write(self, statement: str, *arguments: object) -> None:
        """Run the statement, and return when no crash can undo it."""

    @abstractmethod
    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Write a row for each message, and without an `id` for each bound queue."""

    @abstractmethod
    async def take(self, queue: int, limit: int) -> tuple[list[Row], float]:
        """Lease at most `limit` rows that are due; if there are none, also the seconds until one will be.

        Raises NoSuchQueue.
        """

    @abstractmethod
    async def settle(self, what: str, exchange: str, tags: Sequence[tuple[int, int]], *lease: float) -> None:
        """ack, release or extend the rows (n, taken), except those that another consumer has taken since."""

    async def ping(self) -> None:
        """Run a query that does nothing."""
        await self.rows("SELECT 1")

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Create the queue; once bound it stays bound."""
        await self.write(DECLARE, exchange, id, bound)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Write a row for each message and bound queue."""
        await self.send(exchange, "", messages)

    async def bound(self, exchange: str) -> bool:
        """True: publish itself raises Unroutable."""
        return True

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> TableSubscription:
        """Start to receive."""
        return TableSubscription(self, exchange, await self._queue(exchange, id))

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count the unsettled messages, also those in flight: those of a dead process will be redelivered."""
        ((total, delayed),) = await self.rows(STATS, await self._queue(exchange, id))
        return QueueStats(total - delayed, delayed)

    async def _queue(self, exchange: str, id: str) -> int:
        for (queue,) in await self.rows(QUEUE, exchange, id):
            return int(queue)
        raise no_queue(exchange, id)

    async def queues(self) -> list[tuple[str, str]] | None:
        """Read their names."""
        return [(exchange, id) for exchange, id in await self.rows(QUEUES)]

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the rows; consumers that wait for them find out within a second."""
        await self.write(self.DELETE, exchange, id)


class TableSubscription:
    """One consumer of one queue. A delivery is ours until its row is taken again, which changes `taken` in its tag."""

    def __init__(self, transport: TableTransport, exchange: str, queue: int) -> None:
        self.lease: float | None = transport.lease
        self._transport, self._exchange, self._queue = transport, exchange, queue

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take the rows that are due, oldest first; if none is, wait for a change, a due time or the timeout."""
        deadline = time.monotonic() + timeout
        while True:
            changed = self._transport.changed[self._exchange]
            rows, due = await self._transport.take(self._queue, limit)
            pause = min(due, deadline - time.monotonic())
            if rows or pause <= 0:
                return [self._delivery(*row) for row in sorted(rows)]
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await changed.wait()

    def _delivery(self, n: int, taken: int, returned: int, envelope: bytes | None, body: bytes) -> Delivery:
        message, unreadable = unpack(self._exchange, envelope, body, f"{self._exchange}/{n}")
        return Delivery(message, tag=(n, taken), returned=returned, unreadable=unreadable)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Delete the rows."""
        await self._settle("ack", deliveries)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Make the rows due again, before all others."""
        await self._settle("release", deliveries)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Move the end of the lease."""
        await self._settle("extend", deliveries, self._transport.lease)

    async def _settle(self, what: str, deliveries: Sequence[Delivery], *lease: float) -> None:
        await self._transport.settle(what, self._exchange, [delivery.tag for delivery in deliveries], *lease)

    async def close(self) -> None:
        """Nothing to do: a row that is not settled becomes due again when its lease ends."""


def no_queue(exchange: str, id: str) -> NoSuchQueue:
    """The error to raise if there is no such queue."""
    return NoSuchQueue(f"exchange {exchange!r} has no queue {id!r}")
