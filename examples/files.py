"""A directory of files as the broker: one file per message and queue, for the processes of one machine.

URL: examples.files.FilesTransport:/var/spool/mqasync?lease=30. After the colon stands the directory, taken
as it is written, percent signs included; it has no ? in it. It is made if it is missing, for its user
alone; files_directory.py says what is in it.

Options: `lease`, in the URL: whole seconds, 30 without it, until what a killed process held comes back.
None for single exchanges.

Delivery: at least once. A message is written to a temporary file, synced and renamed into each queue. All
of it that changes later stands in the file's name (see Name), so to take, extend, retry and release it is
one rename, and of two processes that rename one file only one succeeds. A held file's name carries the
end of its lease; who settles too late renames a name that is gone, without effect.

Order: as published, by the clock; what comes back takes its old place.

Delay: in the file's name, kept to the 0.05 s of a poll.

Dead letters: a queue like all others, not bound.

What it cannot do: wake a waiting receiver, which looks every 0.05 s instead; work well with a long queue,
because every look lists the whole directory, or with large bodies, because they are read in the event
loop; work on a file system that machines share; stand a step of the clock, which shifts leases and delays;
keep the messages of one key together; tell a delayed message that has come back before from one that is
held; notice an expired queue before somebody publishes or declares any; clean `tmp/` of what killed
processes left there.
"""

from __future__ import annotations

import asyncio
import errno
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from mqasync.errors import BrokerBusy, BrokerError, BrokerLost, BrokerRefused, ConfigurationError, Unroutable
from mqasync.message import Message
from mqasync.transport import Delivery, Features, Options, QueueStats

from .files_directory import Directory, Name, after

POLL = 0.05
"""Seconds between two looks of a waiting receiver."""

ERRORS = {errno.ENOSPC: BrokerBusy, errno.EDQUOT: BrokerBusy, errno.EACCES: BrokerRefused, errno.EPERM: BrokerRefused}
"""What the operating system says, in mqasync's words; all the rest is BrokerLost."""


class FilesTransport:
    """One directory with all its queues."""

    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)
    blocked = warning = ""

    def __init__(self, url: str, options: Options) -> None:
        match = re.fullmatch(r"[^:]+:([^?]+)(?:\?lease=([1-9][0-9]{0,4}))?", url)
        if not match:
            raise ConfigurationError(f"{url!r} is not of the form CLASS:DIRECTORY or CLASS:DIRECTORY?lease=SECONDS")
        for exchange in filter(options.get, options):
            raise ConfigurationError("a directory of files takes no options", "exchanges", exchange, "options")
        self._directory, self._lease = Directory(Path(match[1])), float(match[2] or 30)
        self._subscriptions: list[FilesSubscription] = []
        self._closed = False

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around all that touches files: BrokerLost after close(), and no OSError gets out."""
        if self._closed:
            raise BrokerLost("the transport is closed")
        try:
            yield
        except OSError as error:
            raise ERRORS.get(error.errno or 0, BrokerLost)(str(error)) from error

    async def open(self) -> None:
        """Make the directories."""
        try:
            self._directory.make()
        except OSError as error:
            raise ConfigurationError(f"the directory cannot be used: {error}") from error

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        """Make the queue, and delete those that have expired."""
        with self.working():
            self._directory.delete_expired()
            self._directory.declare(f"{exchange}@{id}", bound, expires)

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the files; who is subscribed does not find the directory any more."""
        with self.working():
            await asyncio.to_thread(self._directory.delete, f"{exchange}@{id}")

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Write every message into every bound queue."""
        with self.working():
            self._directory.delete_expired()
            queues = self._directory.bound_to(exchange)
            if not queues:
                raise Unroutable(f"no queue is bound to {exchange}")
            await asyncio.to_thread(self._directory.write, queues, messages, 0.0)

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Write every message into one queue."""
        with self.working():
            await asyncio.to_thread(self._directory.write, [f"{exchange}@{id}"], messages, delay)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> FilesSubscription:
        """Start with nothing in hand."""
        subscription = FilesSubscription(self, self._directory, f"{exchange}@{id}", prefetch, self._lease)
        self._subscriptions.append(subscription)
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count the files: what was never taken and is not due is delayed; what is held counts as waiting."""
        with self.working(), suppress(FileNotFoundError):
            names = self._directory.names(f"{exchange}@{id}")
            delayed = sum(name.due > time.time_ns() and not name.taken for name in names)
            return QueueStats(len(names) - delayed, delayed)
        return None

    async def queues(self) -> list[tuple[str, str]] | None:
        """Read their names."""
        with self.working():
            return [(exchange, id) for exchange, _, id in (name.partition("@") for name in self._directory.queues())]

    async def close(self) -> None:
        """Release what is in hand."""
        for subscription in self._subscriptions:
            with suppress(BrokerError):  # closed already, or an outage: then the leases end
                await subscription.release(list(subscription.held))
        self._closed = True


class FilesSubscription:
    """One queue's directory and what is `held` of it; a delivery's tag is the Name under which we hold its file."""

    def __init__(
        self, transport: FilesTransport, directory: Directory, queue: str, prefetch: int, lease: float
    ) -> None:
        self._transport, self._directory, self._queue = transport, directory, queue
        self._prefetch, self._seconds = prefetch, lease
        self.lease: float | None = lease
        self.held: set[Delivery] = set()
        self._closed = False

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Look every POLL seconds."""
        end = time.monotonic() + timeout
        while not self._closed:
            with self._transport.working():
                self._directory.use(self._queue)
                taken = self._take(min(limit, self._prefetch - len(self.held)))
            if taken or time.monotonic() >= end:
                return taken
            await asyncio.sleep(POLL)
        return []

    # All of this runs in the event loop: a rename is too short for a thread, and without an await between a
    # rename and the note of it, close() misses nothing that was taken, and ack never meets a half-done extend.

    def _take(self, room: int) -> list[Delivery]:
        taken: list[Delivery] = []
        for name in self._directory.names(self._queue):
            held = name._replace(due=after(self._seconds), taken=name.taken + 1)
            if len(taken) < room and name.due <= time.time_ns() and self._directory.move(self._queue, name, held):
                taken.append(self._read(held))
        self.held.update(taken)
        return taken

    def _read(self, name: Name) -> Delivery:
        data, problem = self._directory.path(self._queue, name).read_bytes(), ""
        try:
            message = msgspec.msgpack.decode(data, type=Message)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # a broken file: a dead letter with all of it
            message, problem = Message(body=data, exchange=self._queue.partition("@")[0]), str(error)
        return Delivery(msgspec.structs.replace(message, attempt=name.attempt), self, name, name.taken - 1, problem)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove the files."""
        with self._transport.working():
            for delivery in deliveries:
                self._directory.path(self._queue, delivery.tag).unlink(missing_ok=True)
                self.held.discard(delivery)

    async def retry(self, delivery: Delivery, delay: float) -> None:
        """Rename the file: the next attempt, due after the delay."""
        self._put_back(delivery, due=after(delay), attempt=delivery.tag.attempt + 1)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Rename the files: due at once."""
        for delivery in deliveries:
            self._put_back(delivery, due=0)

    def _put_back(self, delivery: Delivery, **changes: int) -> None:
        name = delivery.tag._replace(taken=delivery.tag.taken - 1, **changes)
        with self._transport.working():
            self._directory.move(self._queue, delivery.tag, name)
            self.held.discard(delivery)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Rename the files: due one lease from now."""
        with self._transport.working():
            self._directory.use(self._queue)
            for delivery in deliveries:
                extended = delivery.tag._replace(due=after(self._seconds))
                if self._directory.move(self._queue, delivery.tag, extended):
                    delivery.tag = extended

    async def close(self) -> None:
        """Take no more."""
        self._closed = True
