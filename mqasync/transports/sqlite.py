"""One SQLite file as the broker of all processes of one machine; the contract only, no thread and no SQL.

URL: sqlite:relative/path, sqlite:/absolute/path or sqlite:///absolute/path. After "?":
    lease (seconds until an unsettled delivery comes back by itself, default 30).
Options: none.
Delivery: a row for each message and queue; publish returns when it is on the disk. A delivery is
    leased: who holds it longer without extending it loses it, and settling it then has no effect.
    What a killed process held comes back one lease later and is counted. When the disk is nearly full publishing
    waits, so that consumers find room to take and acknowledge. A damaged file ends the process with an error.
Order: first in, first out with one consumer and no retries; what is released comes first again.
Delay: exact, by the wall clock.
Dead letters: a queue like any other, "id.dead".
What it cannot do: serve several machines (no network file system), write in parallel (one writer
    at a time), give disk space back (it is used again; VACUUM shrinks the file).
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

from ..errors import BrokerLost, ConfigurationError, Unroutable
from ..message import Message
from ..transport import Delivery, Features, Options, QueueStats
from . import sqlite_sql as sql
from .leased import LEASE_SECONDS, WATCH_SECONDS, LeasedSubscription
from .sqlite_file import LOCKED_PAUSE, File

try:
    from inotify_simple import INotify, flags
except ImportError:  # not on Linux
    INotify = None

USED_SECONDS = 1.0  # so often it is written down that a queue is in use
POLL_SECONDS = 0.1  # look so often where nobody can wake us


class SQLiteTransport:
    """One connection to the file, woken when another one has written."""

    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)
    blocked = ""
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options, as the contract says."""
        path, self.lease = _parse(url)
        for exchange, given in options.items():
            for name in given:
                problem = f"unknown option {name!r}: SQLite has no options"
                raise ConfigurationError(problem, "exchanges", exchange, "options", name)
        self.file = File(path)
        self.inotify: INotify | None = None
        self._subscriptions: list[SQLiteSubscription] = []

    async def open(self) -> None:
        """Open the file, or make it."""
        await self.file.open()
        if INotify:
            with suppress(OSError):  # the system has no more of them: poll
                inotify = await self.file.run(INotify)
                self.inotify = inotify
                inotify.add_watch(self.file.wake_path, flags.MODIFY)
                asyncio.get_running_loop().add_reader(inotify.fileno(), self._awake, inotify)

    def _awake(self, inotify: INotify) -> None:
        """Somebody wrote: whoever waits looks again."""
        inotify.read(timeout=0)
        for subscription in self._subscriptions:
            subscription.changed.set()

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        """Make the queue; once bound it stays bound."""
        await self.file.run(self.file.declare, exchange, id, bound, expires)

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the rows."""
        queue = await self.file.run(self.file.value, sql.QUEUE, exchange, id)
        if queue is not None:
            await self.file.run(self.file.delete, queue)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Write a row for each message and bound queue."""
        if not await self.file.run(self.file.put, messages, 0.0, sql.BOUND, exchange):
            raise Unroutable(f"no queue is bound to exchange {exchange!r}")

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Write a row for each message."""
        if not await self.file.run(self.file.put, messages, delay, sql.QUEUE, exchange, id):
            raise self._no_queue(exchange, id)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> SQLiteSubscription:
        """Start to receive, as the contract says."""
        queue = await self._queue(exchange, id)
        expires = await self.file.run(self.file.value, sql.EXPIRES, queue)
        subscription = SQLiteSubscription(self, exchange, queue, prefetch, expires is not None)
        self._subscriptions.append(subscription)
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count what is not settled, what somebody holds included: a dead process's messages come back."""
        queue = await self.file.run(self.file.value, sql.QUEUE, exchange, id)
        if queue is None:
            return None
        ((total, delayed),) = await self.file.run(self.file.rows, sql.STATS, queue)
        return QueueStats(total - delayed, delayed)

    async def queues(self) -> list[tuple[str, str]] | None:
        """Read their names."""
        return [(exchange, id) for exchange, id in await self.file.run(self.file.rows, sql.QUEUES)]

    async def close(self) -> None:
        """Give everything unsettled back and close the file; if the file stays locked, leases run out."""
        if self.file.closed:
            return
        for subscription in self._subscriptions:
            await subscription.close()
        if self.inotify:
            asyncio.get_running_loop().remove_reader(self.inotify.fileno())
            self.inotify.close()
        await self.file.close([subscription.held for subscription in self._subscriptions])

    async def _queue(self, exchange: str, id: str) -> int:
        queue = await self.file.run(self.file.value, sql.QUEUE, exchange, id)
        if queue is None:
            raise self._no_queue(exchange, id)
        return int(queue)

    def _no_queue(self, exchange: str, id: str) -> BrokerLost:
        return BrokerLost(f"{self.file.path} has no queue of {id!r} at exchange {exchange!r}")


class SQLiteSubscription(LeasedSubscription):
    """One consumer of one queue and what it holds."""

    def __init__(self, transport: SQLiteTransport, exchange: str, queue: int, prefetch: int, expiring: bool) -> None:
        """Made by SQLiteTransport.subscribe."""
        super().__init__(transport.lease, prefetch)
        self._transport, self._file = transport, transport.file
        self._exchange, self._queue = exchange, queue
        self._deleted = False
        self._expiring = expiring
        self._used = 0.0  # when we last said that the queue is in use, lest it expire

    @property
    def gone(self) -> str:
        """Not empty once the file was closed or the queue deleted."""
        if self._deleted:
            return f"a queue of {self._file.path} was deleted"
        return f"the SQLite file {self._file.path} was closed" if self._file.closed else ""

    async def _take(self, limit: int) -> tuple[list[Delivery], float]:
        return await self._file.run(self._look, limit)

    def _look(self, limit: int) -> tuple[list[Delivery], float]:
        """Thread: the deliveries that are due and fit; if there are none, when to look again."""
        if self._file.damage:
            raise self._file.damage
        longest = WATCH_SECONDS if self._transport.inotify else POLL_SECONDS
        longest = min(longest, USED_SECONDS) if self._expiring else longest
        limit = min(limit, self._prefetch - len(self.held))
        due = self._file.value(sql.NEXT_DUE, self._queue)
        if due is None:
            self._deleted = True
            return [], 0.0
        now = time.time()
        if self._expiring and now - self._used > USED_SECONDS:
            self._used = now
            self._file.write(sql.USED, [(now, self._queue)], "NORMAL")
        if limit <= 0:
            return [], longest
        if due > now:
            return [], min(longest, due - now)
        taken = self._file.take(self._exchange, self._queue, limit, self._transport.lease)
        self.held.update(tag for tag, *_ in taken)
        found = [Delivery(message, self, tag, returned, problem) for tag, returned, message, problem in taken]
        return found, LOCKED_PAUSE

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Delete the rows."""
        await self._settle(sql.ACK, deliveries, sync="NORMAL")

    async def retry(self, delivery: Delivery, delay: float) -> None:
        """Let the row be taken again later, with attempt + 1."""
        await self._settle(sql.RETRY, [delivery], time.time() + delay)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Let the rows be taken again, before all others."""
        await self._settle(sql.RELEASE, deliveries)

    async def _settle(self, change: str, deliveries: Sequence[Delivery], *due: float, sync: str = "FULL") -> None:
        with self._settling(deliveries) as tags:
            await self._file.run(self._file.write, change, [(*due, *tag) for tag in tags], sync)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Move the end of the lease."""
        end = time.time() + self._transport.lease
        rows = [(end, *delivery.tag) for delivery in deliveries]
        await self._file.run(self._file.write, sql.EXTEND, rows, "NORMAL")


def _parse(url: str) -> tuple[str, float]:
    """The absolute path and the lease in seconds."""
    parts = urlsplit(url, allow_fragments=False)
    if parts.netloc or parts.path in ("", ":memory:"):
        raise ConfigurationError(f"{url!r} names no file: write sqlite:path or sqlite:///absolute/path")
    lease = LEASE_SECONDS
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key != "lease":
            raise ConfigurationError(f"unknown key {key!r} in {url!r}; there is: lease")
        try:
            lease = float(value)
        except ValueError:
            lease = math.nan
        if not 0 < lease < math.inf:
            raise ConfigurationError(f"lease={value!r} in {url!r} is not a number of seconds above 0")
    return os.path.abspath(parts.path), lease
