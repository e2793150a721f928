"""The file behind transports/sqlite.py: its SQL, its thread, its lock; nothing of the contract.

Methods that the thread runs are plain functions; all waiting is done in the event loop, by `run`.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from sqlite3 import SQLITE_BUSY, SQLITE_ERROR, SQLITE_FULL, SQLITE_IOERR, SQLITE_NOMEM, SQLITE_PROTOCOL
from typing import Any, TypeVar

from ..errors import BrokerLost, BrokerRefused
from ..message import Message
from .leased import Tag, from_row, to_envelope

T = TypeVar("T")
Taken = tuple[Tag, int, Message]  # the int: how often it was returned

LOCKED_SECONDS = 30.0  # who writes for longer than this hangs
LOCKED_PAUSE = 0.003  # at most, between two attempts to write
CLOSE_MILLISECONDS = 1000  # how long close() tries to give back while others write
LOST = {SQLITE_BUSY, SQLITE_FULL, SQLITE_IOERR, SQLITE_NOMEM, SQLITE_PROTOCOL}

# A row is one message in one queue. `due`: when it can be taken. `held`: it was taken and not settled.
# `taken`: how often, to fence off an owner whose lease ran out. `returned`: how often a lease ran out.
# `n` is never used twice, or a stale owner might settle another message.
SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS queues (
    queue INTEGER PRIMARY KEY, exchange TEXT NOT NULL, id TEXT NOT NULL, bound INTEGER NOT NULL,
    UNIQUE (exchange, id)
);
CREATE TABLE IF NOT EXISTS messages (
    n INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, due REAL NOT NULL,
    held INTEGER NOT NULL DEFAULT 0, taken INTEGER NOT NULL DEFAULT 0, returned INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL, envelope TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS next_due ON messages (queue, due, n);
COMMIT;
"""
DECLARE = """
INSERT INTO queues (exchange, id, bound) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET bound = max(bound, excluded.bound)
"""
BOUND = "SELECT queue FROM queues WHERE exchange = ? AND bound"
QUEUE = "SELECT queue FROM queues WHERE exchange = ? AND id = ?"
PUT = "INSERT INTO messages (queue, due, attempt, envelope, body) VALUES (?, ?, ?, ?, ?)"
TAKE = """
UPDATE messages SET due = ?, held = 1, taken = taken + 1, returned = returned + held
WHERE n IN (SELECT n FROM messages WHERE queue = ? AND due <= ? ORDER BY due, n LIMIT ?)
RETURNING n, taken, returned, attempt, envelope, body
"""
NEXT_DUE = "SELECT min(due) FROM messages WHERE queue = ?"
DEPTH = "SELECT count(*) FROM messages WHERE queue = ?"
ACK = "DELETE FROM messages WHERE n = ? AND taken = ? AND held"
RETRY = "UPDATE messages SET held = 0, attempt = attempt + 1, due = ? WHERE n = ? AND taken = ? AND held"
RELEASE = "UPDATE messages SET held = 0, due = 0 WHERE n = ? AND taken = ? AND held"  # first in line again
EXTEND = "UPDATE messages SET due = ? WHERE n = ? AND taken = ? AND held"


class File:
    """One connection to one SQLite file."""

    def __init__(self, path: str) -> None:
        """Only remember where it is."""
        self.path = path
        self.wake_path = f"{path}-wake"
        self.closed = False
        self._thread = ThreadPoolExecutor(1, "mqasync-sqlite")
        self._opened = ExitStack()

    async def open(self) -> None:
        """Open the file, or make it."""
        await self.run(self._connect)
        await self.run(self._prepare)

    def _connect(self) -> None:
        directory = os.path.dirname(self.path) or "."
        if not os.path.isdir(directory):
            raise BrokerRefused(f"the SQLite file {self.path} cannot be made: there is no directory {directory}")
        self._db = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        self._opened.callback(self._db.close)

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        with self._db:
            self._db.executescript(SCHEMA)
        self._wake = os.open(self.wake_path, os.O_CREAT | os.O_WRONLY, 0o644)
        self._opened.callback(os.close, self._wake)
        self._identity = os.stat(self.path)

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do `work` in the thread, again while another process writes, and raise what transports may raise."""
        deadline = time.monotonic() + LOCKED_SECONDS
        while not self.closed:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", SQLITE_ERROR) & 0xFF
                if code != SQLITE_BUSY or time.monotonic() > deadline:
                    kind = BrokerLost if code in LOST else BrokerRefused
                    raise kind(f"the SQLite file {self.path} cannot be used: {error}") from error
            await asyncio.sleep(random.uniform(0, LOCKED_PAUSE))  # noqa: S311, it only spreads load
        raise BrokerLost(f"the SQLite file {self.path} was closed")

    async def close(self, held: Iterable[set[Tag]]) -> None:
        """Give back what is held, if that is possible soon, and close the file."""
        self.closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go, held)
        self._thread.shutdown()

    def _let_go(self, held: Iterable[set[Tag]]) -> None:
        with self._opened, suppress(sqlite3.Error, BrokerLost):
            if tags := [tag for tags in held for tag in tags]:
                self._db.execute(f"PRAGMA busy_timeout = {CLOSE_MILLISECONDS}")
                self.write(RELEASE, tags)

    @contextmanager
    def _transaction(self, sync: str) -> Iterator[sqlite3.Connection]:
        """FULL: on the disk when it ends, and everybody who waits is woken; NORMAL: a power cut may undo it."""
        self._check()
        self._db.execute(f"PRAGMA synchronous = {sync}")
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
        if sync == "FULL":
            with suppress(OSError):  # the disk is full; they look again by themselves
                os.pwrite(self._wake, b"\0", 0)

    def _check(self) -> None:
        """Raise BrokerLost when the file was deleted: SQLite would go on writing where nobody finds it."""
        with suppress(OSError):
            if os.path.samestat(self._identity, os.stat(self.path)):
                return
        raise BrokerLost(f"the SQLite file {self.path} is not there any more")

    def value(self, sql: str, *parameters: object) -> Any:
        """Thread: the only column of the only row; None if there is no row."""
        self._check()
        row = self._db.execute(sql, parameters).fetchone()
        return row and row[0]

    def write(self, sql: str, rows: Sequence[tuple[object, ...]], sync: str = "FULL") -> None:
        """Thread: execute `sql` with each of the rows."""
        with self._transaction(sync) as db:
            db.executemany(sql, rows)

    def put(self, messages: Sequence[Message], delay: float, sql: str, exchange: str, *id: str) -> bool:
        """Thread: write a row for each message and each queue that `sql` finds; False if it finds none."""
        rows = [(message.attempt, to_envelope(message, exchange).decode(), message.body) for message in messages]
        with self._transaction("FULL") as db:
            due = time.time() + delay
            queues = db.execute(sql, (exchange, *id)).fetchall()
            db.executemany(PUT, [(queue, due, *row) for row in rows for (queue,) in queues])
        return bool(queues)

    def take(self, queue: int, limit: int, lease: float) -> list[Taken]:
        """Thread: lease what is due, at most `limit`, in the order of publishing."""
        with self._transaction("NORMAL") as db:
            now = time.time()
            rows = sorted(db.execute(TAKE, (now + lease, queue, now, limit)))
        return [
            ((n, taken), returned, from_row(envelope, attempt, body))
            for n, taken, returned, attempt, envelope, body in rows
        ]
