"""A directory of files as the broker: one file per message and queue, for the processes of one machine.

URL: examples.files.FilesTransport:/var/spool/mqasync?lease=30. After the colon stands the directory, taken
as it is written, percent signs included; it has no ? in it. It is made if it is missing, for its user alone.
`queues/EXCHANGE@ID/` holds the messages of a queue, `bound/EXCHANGE@ID` marks one that is bound, and what is
half written or deleted is in `tmp/`.

Options: `lease`, in the URL: whole seconds, 30 without it, until what a killed process held comes back.
None for single exchanges.

Delivery: at least once. A message is written to a temporary file, synced and renamed into each queue. All
of it that changes later stands in the file's name (see Name), so to take, extend and release it is one
rename, and of two processes that rename one file only one succeeds. A held file's name carries the end of
its lease; who settles too late renames a name that is gone, without effect.

Order: as published, by the clock; what comes back takes its old place.

Delay: in the file's name, kept to the 0.05 s of a poll.

Dead letters: a queue like all others, not bound.

What it cannot do: wake a waiting receiver, which looks every 0.05 s instead; work well with a long queue,
because every look lists the whole directory, or with large bodies, because they are read in the event
loop; work on a file system that machines share; stand a step of the clock, which shifts leases and delays;
keep the messages of one key together; tell a delayed message that has come back before from one that is
held; clean `tmp/` of what killed processes left there.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mqasync.errors import BrokerBusy, BrokerRefused, ConfigurationError, NoSuchQueue, Unroutable
from mqasync.message import Message
from mqasync.transport import Delivery, Errors, Features, Options, QueueStats
from mqasync.transports.common.envelope import pack, unpack

POLL = 0.05
"""Seconds between two looks of a waiting receiver."""


class Name(NamedTuple):
    """The name of a message's file: all of the message that changes, so that a rename changes it."""

    serial: int  # the same for ever, unique, ascending as published
    due: int  # when it may be taken, in ns since 1970: the end of a delay or of a lease
    taken: int = 0  # how often without being settled, the present lease included

    def __str__(self) -> str:
        return "-".join(map(str, self))


def after(seconds: float) -> int:
    """When so many seconds are over, for Name.due."""
    return time.time_ns() + int(seconds * 1e9)


def sync(path: Path) -> None:
    """Make a file, or what was made and renamed in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def names(queue: Path) -> list[Name]:
    """The messages in a queue's directory, as published."""
    return sorted(Name(*map(int, file.split("-"))) for file in os.listdir(queue))


class FilesTransport:
    """One directory with all its queues."""

    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)
    errors: Errors = (
        (NoSuchQueue, [FileNotFoundError]),
        (BrokerBusy, ["No space left", "Disk quota"]),
        (BrokerRefused, [PermissionError]),
    )
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        """Check the URL."""
        match = re.fullmatch(r"[^:]+:([^?]+)(?:\?lease=([1-9][0-9]{0,4}))?", url)
        if not match:
            raise ConfigurationError(f"{url!r} is not of the form CLASS:DIRECTORY or CLASS:DIRECTORY?lease=SECONDS")
        for exchange in filter(options.get, options):
            raise ConfigurationError("a directory of files takes no options", "exchanges", exchange, "options")
        self._root, self._lease = Path(match[1]), float(match[2] or 30)
        self._queues, self._bound, self._tmp = (self._root / name for name in ("queues", "bound", "tmp"))

    async def open(self) -> None:
        """Make the directories."""
        try:
            for directory in (self._queues, self._bound, self._tmp):
                directory.mkdir(0o700, parents=True, exist_ok=True)
            sync(self._root)
        except OSError as error:
            raise ConfigurationError(f"the directory cannot be used: {error}") from error

    async def ping(self) -> None:
        """The directory is there."""
        os.listdir(self._queues)

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Make the queue's directory, then its mark."""
        queue = f"{exchange}@{id}"
        (self._queues / queue).mkdir(0o700, exist_ok=True)
        sync(self._queues)
        if bound:
            (self._bound / queue).touch()
            sync(self._bound)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Write every message into every bound queue."""
        queues = [queue for queue in os.listdir(self._bound) if queue.startswith(f"{exchange}@")]
        if not queues:
            raise Unroutable(f"no queue is bound to {exchange}")
        await asyncio.to_thread(self._write, queues, messages, 0.0)

    async def bound(self, exchange: str) -> bool:
        """Publish tells by itself."""
        return True

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Write every message into one queue."""
        await asyncio.to_thread(self._write, [f"{exchange}@{id}"], messages, delay)

    def _write(self, queues: Sequence[str], messages: Sequence[Message], delay: float) -> None:
        """A message is in a queue whole or not at all."""
        for queue in queues:
            for message in messages:
                # the last digits are chance: another process may have the same nanosecond
                serial = time.time_ns() * 10**8 + int.from_bytes(os.urandom(3))
                temporary = self._tmp / str(serial)
                temporary.write_bytes(pack(message) + b"\n" + message.body)
                sync(temporary)
                temporary.rename(self._queues / queue / str(Name(serial, after(delay))))
            sync(self._queues / queue)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> FilesSubscription:
        """Start with nothing in hand."""
        return FilesSubscription(exchange, self._queues / f"{exchange}@{id}", self._lease)

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count the files: what was never taken and is not due is delayed; what is held counts as waiting."""
        there = names(self._queues / f"{exchange}@{id}")
        delayed = sum(name.due > time.time_ns() and not name.taken for name in there)
        return QueueStats(len(there) - delayed, delayed)

    async def queues(self) -> list[tuple[str, str]] | None:
        """Read their names."""
        return [(exchange, id) for exchange, _, id in (name.partition("@") for name in os.listdir(self._queues))]

    async def delete(self, exchange: str, id: str) -> None:
        """Out of sight at once, so that nobody puts in what would be deleted later."""
        queue = f"{exchange}@{id}"
        (self._bound / queue).unlink(missing_ok=True)
        deleted = self._tmp / f"deleted-{queue}-{time.time_ns()}"
        (self._queues / queue).rename(deleted)
        await asyncio.to_thread(shutil.rmtree, deleted, ignore_errors=True)

    async def close(self) -> None:
        """Nothing stays open; what is held comes back by its lease."""


class FilesSubscription:
    """One queue's directory; a delivery's tag is the Name under which we hold its file."""

    def __init__(self, exchange: str, queue: Path, lease: float) -> None:
        self.lease: float | None = lease
        self._exchange, self._queue, self._seconds = exchange, queue, lease

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Look every POLL seconds."""
        for _ in range(int(timeout / POLL) + 1):
            if taken := self._take(limit):
                return taken
            await asyncio.sleep(min(POLL, timeout))
        return []

    # All of this runs in the event loop: a rename is too short for a thread.

    def _take(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        for name in names(self._queue):
            held = name._replace(due=after(self._seconds), taken=name.taken + 1)
            if len(taken) < limit and name.due <= time.time_ns() and self._move(name, held):
                taken.append(self._read(held))
        return taken

    def _move(self, name: Name, new: Name) -> bool:
        """Change a message; False if somebody else was first."""
        with suppress(FileNotFoundError):
            (self._queue / str(name)).rename(self._queue / str(new))
            return True
        return False

    def _read(self, name: Name) -> Delivery:
        data = (self._queue / str(name)).read_bytes()
        envelope, _, body = data.partition(b"\n")
        message, problem = unpack(self._exchange, envelope, body)
        if problem:  # a broken file: a dead letter with all of it
            message = Message(body=data, exchange=self._exchange)
        return Delivery(message, tag=name, returned=name.taken - 1, unreadable=problem)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove the files."""
        for delivery in deliveries:
            (self._queue / str(delivery.tag)).unlink(missing_ok=True)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Rename the files: due at once."""
        for delivery in deliveries:
            self._move(delivery.tag, delivery.tag._replace(due=0, taken=delivery.tag.taken - 1))

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Rename the files: due one lease from now."""
        for delivery in deliveries:
            extended = delivery.tag._replace(due=after(self._seconds))
            if self._move(delivery.tag, extended):
                delivery.tag = extended

    async def close(self) -> None:
        """Nothing stays open."""
