"""One SQLite file as the broker of all processes of one machine.

URL: sqlite:relative/path, sqlite:/absolute/path or sqlite:///absolute/path. After "?":
    lease (seconds until an unacknowledged message is redelivered, default 30).
Options: none.
Delivery: a row for each message and queue; publish returns when it is on the disk. A delivery is
    leased: a process that does not extend the lease in time loses the message, and acknowledging it
    then has no effect. Messages in flight in a killed process are redelivered one lease later, and
    counted.
    When the disk is nearly full, publishing waits, so that consumers have room to receive and
    acknowledge; acknowledged messages make room. A damaged file ends the process with one error
    that says how to save it.
Order: first in, first out with one consumer and no retries; requeued messages come first.
Delay: exact, by the wall clock.
Dead letters: a queue like any other, "id.dead".
What it cannot do: serve several machines (no network file system), write in parallel (one writer
    at a time), give disk space back (it is used again; VACUUM shrinks the file).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from ..errors import BrokerBusy, BrokerDamaged, BrokerLost, BrokerRefused, ConfigurationError, NoSuchQueue
from ..message import Message
from ..transport import Errors, Features, Options
from .common.envelope import pack
from .common.table import AHEAD, Row, TableTransport, no_queue
from .common.url import Key, check_options, value

if sys.platform == "linux":
    from inotify_simple import INotify, flags

Result = TypeVar("Result")

WAL_BYTES = 2**20  # go into the file together, and no more stay in the WAL
RESERVED_BYTES = 2**24  # of the disk, or a tenth of a small one, that publishing leaves free for consumers

# Debian's own secure_delete writes each acknowledged body once more.
OPEN = f"""
PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = {WAL_BYTES // 4096};
PRAGMA journal_size_limit = {WAL_BYTES}; PRAGMA secure_delete = FAST; PRAGMA foreign_keys = ON;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS queue (
    queue INTEGER PRIMARY KEY AUTOINCREMENT, exchange TEXT, id TEXT, bound INTEGER, UNIQUE (exchange, id)
);
CREATE TABLE IF NOT EXISTS message (
    n INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL REFERENCES queue ON DELETE CASCADE,
    due REAL NOT NULL, taken INTEGER NOT NULL DEFAULT 0, released INTEGER NOT NULL DEFAULT 0, envelope, body
);
CREATE INDEX IF NOT EXISTS message_due ON message (queue, due, n);
COMMIT"""
# Without an id every bound one.
QUEUES = "SELECT queue FROM queue WHERE exchange = ?1 AND (id = ?2 OR bound AND ?2 = '')"
PUT = "INSERT INTO message (queue, due, envelope, body) VALUES (?, ?, ?, ?)"
# Another program may have put text that is not UTF-8 into any column.
TAKE = """
UPDATE message SET due = clock_timestamp() + ?3, taken = taken + 1 WHERE n IN (SELECT n FROM message
WHERE queue = ?1 AND due <= (SELECT clock_timestamp()) ORDER BY due, n LIMIT ?2)
RETURNING n, taken, taken - released - 1, CAST(envelope AS BLOB), CAST(body AS BLOB)"""
# No row where there is no such queue.
NEXT_DUE = """
SELECT coalesce((SELECT min(due) FROM message AS m WHERE m.queue = q.queue), 9e999) - clock_timestamp()
FROM queue AS q WHERE queue = ?1"""
# FULL: it is on the disk, and waiting receivers are woken. NORMAL: a power cut may undo it.
SETTLE = {
    "ack": ("NORMAL", "DELETE FROM message WHERE n = ?1 AND taken = ?2"),
    "release": ("FULL", "UPDATE message SET due = 0, released = released + 1 WHERE n = ?1 AND taken = ?2"),
    "extend": ("NORMAL", "UPDATE message SET due = clock_timestamp() + ?3 WHERE n = ?1 AND taken = ?2"),
}
SAVE = "save what can be read with sqlite3 {0} .recover | sqlite3 recovered.db, and put that in its place"


class SQLiteTransport(TableTransport):
    """One connection to the file in a thread of its own, woken when another one has written."""

    features = Features(counts_returns=True, priorities=True, max_bytes=2**27, batch_bytes=2**18)
    DELETE = "DELETE FROM queue WHERE exchange = $1 AND id = $2"

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options."""
        check_options(options, {}, "SQLite")
        parts = urlsplit(url, allow_fragments=False)
        if parts.netloc or parts.path in ("", ":memory:"):
            raise ConfigurationError(f"{url!r} names no file: write sqlite:path or sqlite:///absolute/path")
        settings = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := settings.keys() - {"lease"}:
            raise ConfigurationError(f"unknown key {min(unknown)!r} in {url!r}; valid keys: lease")
        super().__init__(value("lease", settings.get("lease", 30.0), Key(30.0, least=0.1)))
        self._path = os.path.abspath(parts.path)
        file = f"the SQLite file {self._path}"
        self._damaged = f"{file} is damaged: stop all processes that use it, {SAVE.format(self._path)}"
        self.errors: Errors = (
            (BrokerDamaged, ["malformed"], self._damaged),
            (BrokerBusy, ["is full"], f"the disk of {file} is full: publishing waits for consumers"),
            (BrokerBusy, ["is locked", "FOREIGN KEY"]),  # a queue was deleted meanwhile: look again
            (BrokerLost, ["disk I/O error", "locking protocol"]),
            (BrokerRefused, ["not a database"], f"{file} cannot be used: file is not a database"),
            (BrokerRefused, ["unable to open"], f"{file} cannot be opened: is its directory there and ours?"),
            (BrokerRefused, [sqlite3.Error]),
        )
        self._thread = ThreadPoolExecutor(1, "mqasync-sqlite")
        self._inotify: Any = None

    async def open(self) -> None:
        """Open the file, or create it, and watch the file beside it that every process touches after a write."""
        await self._run(self._open)
        self.errors = ((BrokerDamaged, ["not a database"], self._damaged), *self.errors)
        if sys.platform == "linux":
            with suppress(OSError):  # the system has no more of them: poll
                self._inotify = INotify()
                self._inotify.add_watch(f"{self._path}-wake", flags.ATTRIB)
                asyncio.get_running_loop().add_reader(self._inotify, self._awake)

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None)  # waits 5 s where another one writes
        self._db.create_function("clock_timestamp", 0, time.time)
        self._db.executescript(OPEN)
        os.close(os.open(f"{self._path}-wake", os.O_CREAT, 0o644))
        self._inode = os.stat(self._path).st_ino

    def _awake(self) -> None:
        self._inotify.read(timeout=0)
        self.changed.tell(*self.changed)

    def _run(self, work: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _execute(self, how: str, statement: str, rows: Sequence[Any], size: int = 0) -> Any:
        """The rows that the statement returns, or how many it changed, with each of `rows` as its arguments.

        `how` see SETTLE, empty where it only reads; `size`: how many bytes it writes that a consumer has to take later.
        """
        if os.stat(self._path).st_ino != self._inode:
            raise BrokerLost(f"the SQLite file {self._path} was replaced by another one")
        try:
            if size and size > self._room():
                raise sqlite3.OperationalError("the disk is full")
            with self._db as db:
                if how:
                    db.executescript(f"PRAGMA synchronous = {how}; BEGIN IMMEDIATE")
                cursor = db.executemany(statement, rows) if rows[1:] else db.execute(statement, *rows)
                done = cursor.fetchall() if cursor.description else cursor.rowcount
        except sqlite3.OperationalError:  # the next attempt may find room in the WAL, or on the disk
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raise
        if how == "FULL":
            os.utime(f"{self._path}-wake")
        return done

    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        """What it returns."""
        return list(await self._run(self._execute, "", statement.replace("$", "?"), [arguments]))

    async def write(self, statement: str, *arguments: object) -> None:
        """Return when it is on the disk."""
        await self._run(self._execute, "FULL", statement.replace("$", "?"), [arguments])

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Write a row for each message, and without an `id` for each bound queue."""
        due = time.time() + delay
        parts = [(due - AHEAD * one.priority * (not delay), pack(one), one.body) for one in messages]
        await self._run(self._put, exchange, id, parts)

    def _put(self, exchange: str, id: str, parts: Sequence[tuple[float, bytes, bytes]]) -> None:
        """Publishing waits for room; a retry or a dead letter makes room itself."""
        if not (queues := self._db.execute(QUEUES, (exchange, id)).fetchall()):
            raise no_queue(exchange, id)
        size = 0 if id else len(queues) * sum(60 + len(envelope) + len(body) for _, envelope, body in parts)
        self._execute("FULL", PUT, [(queue, *part) for part in parts for (queue,) in queues], size)

    def _room(self) -> int:
        """How many bytes leave room for consumers; they go into the WAL, the file, and the WAL when taken."""
        disk, wal = shutil.disk_usage(os.path.dirname(self._path)), os.path.getsize(f"{self._path}-wal")
        spare = disk.free - WAL_BYTES - min(RESERVED_BYTES, disk.total // 10)
        ((unused,),) = self._db.execute("PRAGMA freelist_count")
        return int(max((spare - wal) // 4, min((4096 * unused - wal) // 3, spare + WAL_BYTES // 2)))

    async def take(self, queue: int, limit: int) -> tuple[list[Row], float]:
        """Look first whether a message is due, since taking it locks the file."""
        with suppress(sqlite3.OperationalError):  # such as a full disk: whole rows are written
            return await self._run(self._take, queue, limit)
        return await self._run(self._take, queue, 1)

    def _take(self, queue: int, limit: int) -> tuple[list[Row], float]:
        for (due,) in self._execute("", NEXT_DUE, [(queue,)]):
            if due > 0:
                return [], due if self._inotify else min(due, 0.1)  # without inotify nothing can wake us
            return self._execute("NORMAL", TAKE, [(queue, limit, self.lease)]), 0.0
        raise NoSuchQueue("the queue was deleted")

    async def settle(self, what: str, exchange: str, tags: Sequence[tuple[int, int]], *lease: float) -> None:
        """Change the rows."""
        await self._run(self._execute, *SETTLE[what], [(*tag, *lease) for tag in tags])

    async def close(self) -> None:
        """Close the file."""
        if self._inotify:
            asyncio.get_running_loop().remove_reader(self._inotify)
            self._inotify.close()
        await self._run(self._db.close)
        self._thread.shutdown()
