"""The directory behind files.py: its queues, their marks and the names of message files; nothing of the contract.

`queues/EXCHANGE@ID/` holds the messages of a queue. Beside it there are `bound/EXCHANGE@ID`, an empty file, for
a queue that is bound, and `expiring/EXCHANGE@ID` for one that expires: its text is after how many seconds, its
time of change when somebody was last seen to be subscribed. What is half written or deleted is in `tmp/`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from mqasync.message import Message


class Name(NamedTuple):
    """The name of a message's file: all of the message that changes, so that a rename changes it."""

    serial: int  # the same for ever, unique, ascending as published
    due: int  # when it may be taken, in ns since 1970: the end of a delay or of a lease
    attempt: int
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


class Directory:
    """All queues, by their names EXCHANGE@ID; raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._queues, self._bound, self._expiring, self._tmp = (
            root / name for name in ("queues", "bound", "expiring", "tmp")
        )

    def make(self) -> None:
        """Make what is missing."""
        for directory in (self._queues, self._bound, self._expiring, self._tmp):
            directory.mkdir(0o700, parents=True, exist_ok=True)
        sync(self._root)

    def declare(self, queue: str, bound: bool, expires: float | None) -> None:
        """Make the queue's directory, then its marks."""
        (self._queues / queue).mkdir(0o700, exist_ok=True)
        sync(self._queues)
        if expires is None:
            (self._expiring / queue).unlink(missing_ok=True)
        else:
            (self._expiring / queue).write_text(str(expires))
        if bound:
            (self._bound / queue).touch()
            sync(self._bound)

    def delete(self, queue: str) -> None:
        """Out of sight at once, so that nobody puts in what would be deleted later."""
        (self._bound / queue).unlink(missing_ok=True)
        deleted = self._tmp / f"deleted-{queue}-{time.time_ns()}"
        with suppress(FileNotFoundError):
            (self._queues / queue).rename(deleted)
        (self._expiring / queue).unlink(missing_ok=True)
        shutil.rmtree(deleted, ignore_errors=True)

    def delete_expired(self) -> None:
        """Of those that expire, delete what was not used for so long."""
        for queue in os.listdir(self._expiring):
            mark = self._expiring / queue
            with suppress(FileNotFoundError):  # somebody else was first
                seconds = float(mark.read_text() or "inf")  # empty: it is being written
                if mark.stat().st_mtime + seconds < time.time():
                    self.delete(queue)

    def use(self, queue: str) -> None:
        """Somebody is subscribed to it."""
        with suppress(FileNotFoundError):  # it does not expire
            os.utime(self._expiring / queue)

    def queues(self) -> list[str]:
        """All of them."""
        return os.listdir(self._queues)

    def bound_to(self, exchange: str) -> list[str]:
        """Those that get what is published."""
        return [queue for queue in os.listdir(self._bound) if queue.startswith(f"{exchange}@")]

    def path(self, queue: str, name: Name) -> Path:
        """Where a message is."""
        return self._queues / queue / str(name)

    def names(self, queue: str) -> list[Name]:
        """The messages of a queue, as published."""
        return sorted(Name(*map(int, file.split("-"))) for file in os.listdir(self._queues / queue))

    def write(self, queues: Sequence[str], messages: Sequence[Message], delay: float) -> None:
        """Every message into every queue; it is in one whole or not at all."""
        for queue in queues:
            for message in messages:
                # The last digits are chance: another process may have the same nanosecond.
                serial = time.time_ns() * 10**8 + int.from_bytes(os.urandom(3))
                name = Name(serial, after(delay), message.attempt)
                temporary = self._tmp / str(name)
                temporary.write_bytes(msgspec.msgpack.encode(message))
                sync(temporary)
                temporary.rename(self.path(queue, name))
            sync(self._queues / queue)

    def move(self, queue: str, name: Name, new: Name) -> bool:
        """Change a message; False if somebody else was first."""
        with suppress(FileNotFoundError):
            self.path(queue, name).rename(self.path(queue, new))
            return True
        return False
