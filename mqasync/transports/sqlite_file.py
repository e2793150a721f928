"""The file behind transports/sqlite.py: its thread, its lock; nothing of the contract, the SQL is in sqlite_sql.py.

Methods that the thread runs are plain functions; all waiting is done in the event loop, by `run`.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from sqlite3 import (
    SQLITE_BUSY,
    SQLITE_CORRUPT,
    SQLITE_ERROR,
    SQLITE_FULL,
    SQLITE_IOERR,
    SQLITE_NOMEM,
    SQLITE_NOTADB,
    SQLITE_PROTOCOL,
)
from typing import Any, TypeVar

from ..errors import BrokerBusy, BrokerDamaged, BrokerError, BrokerLost, BrokerRefused
from ..message import Message
from . import sqlite_sql
from .leased import Tag, from_row, to_envelope

T = TypeVar("T")
Taken = tuple[Tag, int, Message, str]  # the int: how often it was returned; the text: why it cannot be read

LOCKED_SECONDS = 30.0  # who writes for longer than this hangs
LOCKED_PAUSE = 0.003  # at most, between two attempts to write
PAUSES = {SQLITE_BUSY: LOCKED_PAUSE, SQLITE_FULL: 0.1}  # the WAL cannot begin anew while somebody reads
CLOSE_MILLISECONDS = 1000  # how long close() tries to give back while others write
LOST = {SQLITE_BUSY, SQLITE_IOERR, SQLITE_NOMEM, SQLITE_PROTOCOL}
WAL_BYTES = 1024 * 1024  # of the WAL go into the file together, and so many it keeps
RESERVED_BYTES = 16 * 1024 * 1024  # of the disk, or a tenth of a small one: publishing leaves them to consumers


class File:
    """One connection to one SQLite file."""

    def __init__(self, path: str) -> None:
        """Only remember where it is."""
        self.path = path
        self.wake_path = f"{path}-wake"
        self.closed = False
        self.damage: BrokerDamaged | None = None
        self._identity: os.stat_result | None = None
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
        self._db.create_function("clock", 0, time.time)

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {WAL_BYTES // 4096}")
        self._db.execute("PRAGMA secure_delete = FAST")  # Debian's own default writes each acknowledged body once more
        with self._db:
            self._db.executescript(sqlite_sql.SCHEMA)
        self._wake = os.open(self.wake_path, os.O_CREAT | os.O_WRONLY, 0o644)
        self._opened.callback(os.close, self._wake)
        self._identity = os.stat(self.path)

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do `work` in the thread, again while there is a lock or no room; raise what transports may raise."""
        deadline = time.monotonic() + LOCKED_SECONDS
        while not self.closed:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", SQLITE_ERROR) & 0xFF
                if code not in PAUSES or time.monotonic() > deadline:
                    raise self._meaning(code, error) from error
            await asyncio.sleep(random.uniform(0, PAUSES[code]))  # noqa: S311, it only spreads load
        raise BrokerLost(f"the SQLite file {self.path} was closed")

    def _meaning(self, code: int, error: sqlite3.Error) -> BrokerError:
        """What an error of SQLite with that code is to the core."""
        if code == SQLITE_CORRUPT or (code == SQLITE_NOTADB and self._identity):
            self.damage = self.damage or BrokerDamaged(
                f"the SQLite file {self.path} is damaged ({error}): stop whoever uses it, save what can be read with"
                f" sqlite3 {self.path} .recover | sqlite3 recovered.db, and put recovered.db in its place"
            )
            return self.damage
        kind = BrokerBusy if code == SQLITE_FULL else BrokerLost if code in LOST else BrokerRefused
        return kind(f"the SQLite file {self.path} cannot be used: {error}")

    async def close(self, held: Iterable[set[Tag]]) -> None:
        """Give back what is held, if that is possible soon, and close the file."""
        self.closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go, held)
        self._thread.shutdown()

    def _let_go(self, held: Iterable[set[Tag]]) -> None:
        with self._opened, suppress(sqlite3.Error, BrokerLost):
            if tags := [tag for tags in held for tag in tags]:
                self._db.execute(f"PRAGMA busy_timeout = {CLOSE_MILLISECONDS}")
                self.write(sqlite_sql.RELEASE, tags)

    @contextmanager
    def _transaction(self, sync: str, published: int = 0) -> Iterator[sqlite3.Connection]:
        """FULL: on the disk when it ends, and everybody who waits is woken; NORMAL: a power cut may undo it."""
        self._check()
        self._make_room(published)
        self._db.execute(f"PRAGMA synchronous = {sync}")
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
        if sync == "FULL":
            with suppress(OSError):  # the disk is full; they look again by themselves
                os.pwrite(self._wake, b"\0", 0)

    def _make_room(self, published: int) -> None:
        """Write on from the beginning of the WAL where the disk is nearly full; so many bytes `published` have to wait.

        The WAL keeps its size then, so that what consumers write finds room there whoever fills the disk.
        """
        if self._nearly_full(published):
            with suppress(sqlite3.OperationalError):
                self._db.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if published else 'RESTART'})")
            if published and self._nearly_full(published):
                raise BrokerBusy(f"the disk of the SQLite file {self.path} is full: publishing waits for consumers")

    def _nearly_full(self, published: int) -> bool:
        """Whether too little would be left for consumers, once so many bytes are in the WAL and then in the file."""
        disk = shutil.disk_usage(os.path.dirname(self.path))
        left, reserved = disk.free - published, min(RESERVED_BYTES, disk.total // 10)
        grown = os.path.getsize(f"{self.path}-wal") + 2 * published  # twice: who takes the row writes it once more
        if left >= reserved + grown:
            return False
        ((unused,),) = self._db.execute(sqlite_sql.UNUSED).fetchall()
        return unused < grown or left < reserved // 2

    def _check(self) -> None:
        """Raise BrokerLost when the file was deleted: SQLite would go on writing where nobody finds it."""
        with suppress(OSError):
            if self._identity and os.path.samestat(self._identity, os.stat(self.path)):
                return
        raise BrokerLost(f"the SQLite file {self.path} is not there any more")

    def value(self, sql: str, *parameters: object) -> Any:
        """Thread: the only column of the only row; None if there is no row."""
        self._check()
        row = self._db.execute(sql, parameters).fetchone()
        return row and row[0]

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Thread: all rows."""
        self._check()
        return self._db.execute(sql, parameters).fetchall()

    def declare(self, exchange: str, id: str, bound: bool, expires: float | None) -> None:
        """Thread: delete the queues that have expired, then make this one."""
        now = time.time()
        with self._transaction("FULL") as db:
            for (queue,) in db.execute(sqlite_sql.EXPIRED, (now,)).fetchall():
                self._delete(queue)
            db.execute(sqlite_sql.DECLARE, (exchange, id, bound))
            if expires is not None:
                db.execute(sqlite_sql.EXPIRE, (expires, exchange, id))
                db.execute(sqlite_sql.USED, (now, *db.execute(sqlite_sql.QUEUE, (exchange, id)).fetchone()))

    def delete(self, queue: int) -> None:
        """Thread: the queue and what is in it are gone."""
        with self._transaction("FULL"):
            self._delete(queue)

    def _delete(self, queue: int) -> None:
        for statement in sqlite_sql.DELETE:
            self._db.execute(statement, (queue,))

    def write(self, sql: str, rows: Sequence[tuple[object, ...]], sync: str = "FULL") -> None:
        """Thread: execute `sql` with each of the rows."""
        with self._transaction(sync) as db:
            db.executemany(sql, rows)

    def put(self, messages: Sequence[Message], delay: float, sql: str, exchange: str, *id: str) -> bool:
        """Thread: write a row for each message and each queue that `sql` finds; False if it finds none."""
        rows = [(message.attempt, to_envelope(message, exchange).decode(), message.body) for message in messages]
        size = sum(len(envelope) + len(body) for _, envelope, body in rows)
        published = 0 if id else size * len(self.rows(sql, exchange))  # a retry or dead letter makes room itself
        with self._transaction("FULL", published) as db:
            due = time.time() + delay
            queues = db.execute(sql, (exchange, *id)).fetchall()
            db.executemany(sqlite_sql.PUT, [(queue, due, *row) for row in rows for (queue,) in queues])
        return bool(queues)

    def take(self, exchange: str, queue: int, limit: int, lease: float) -> list[Taken]:
        """Thread: lease what is due, at most `limit`, in the order of publishing."""
        try:
            with self._transaction("NORMAL") as db:
                now = time.time()
                rows = sorted(db.execute(sqlite_sql.TAKE, (now + lease, queue, now, limit)))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != SQLITE_FULL or limit == 1:
                raise
            return self.take(exchange, queue, 1, lease)  # SQLite writes the whole row to the WAL, its body too
        return [
            ((n, taken), returned, *from_row(exchange, n, envelope, attempt, body))
            for n, taken, returned, attempt, envelope, body in rows
        ]
