"""One PostgreSQL database as the broker, through asyncpg.

URL: postgresql://user:password@host:port/database (or postgres://). After "?":
    sslmode (verify-full, the default, or off: without encryption), cafile, certfile, keyfile,
    schema (default mqasync; created with its tables when first used, by a role that may do so;
    nothing else may use it),
    lease (seconds until an unacknowledged message is redelivered, default 30),
    connections (of one process, default 4: one receives and is notified, the others publish).
Options: none.
Delivery: a row for each message and queue; publish returns when it is committed. A delivery is
    leased: a process that does not extend the lease in time loses the message, and acknowledging it
    then has no effect. Messages in flight in a killed process are redelivered one lease later, and
    counted.
Order: first in, first out with one consumer and no retries; requeued messages come first.
Delay: exact, by the server's clock.
Dead letters: a queue like any other, "id.dead".
What it cannot do: work through a pooler that shares connections between transactions, because LISTEN
    needs its own: PgBouncer needs pool_mode=session, and a connection in its pool for each of ours.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import asyncpg as pg

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, ConfigurationError, NoSuchQueue
from ..message import Message
from ..transport import Errors, Features, Options
from .common import tls
from .common.envelope import pack
from .common.table import AHEAD, Row, TableTransport, no_queue
from .common.url import Key, check_options, parse

FORM = "postgresql://user:password@host:port/database"
KEYS = {
    "schema": Key("mqasync"),
    "lease": Key(30.0, least=0.1),
    "connections": Key(4, least=2, most=100),
    "sslmode": Key("verify-full", choices=("verify-full", "off")),
    **dict.fromkeys(tls.FILES, Key("")),
}
# as PostgreSQL takes it without folding, and short enough for the name of a channel
SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
LOCKED_PAUSE = 0.05  # a message that is due and cannot be taken is being taken by another consumer

POOLED = "a pooler in between shares connections between transactions: PgBouncer needs pool_mode=session"
ERRORS: Errors = (
    (BrokerRefused, [pg.DuplicatePreparedStatementError, pg.InvalidSQLStatementNameError], POOLED),
    (BrokerRefused, ["rejected SSL upgrade"], "it offers no TLS; sslmode=off in the URL connects without"),
    (BrokerLost, [pg.TargetServerAttributeNotMatched], "it accepts no writes: it is a standby or read-only"),
    (ConfigurationError, [pg.ClientConfigurationError]),  # of the environment: PGSSLNEGOTIATION and the like
    (BrokerBusy, [pg.InsufficientResourcesError, pg.QueryCanceledError, pg.TransactionRollbackError]),
    (BrokerLost, [pg.UndefinedTableError]),  # it was dropped; open() creates it again
    (BrokerRefused, [pg.InvalidAuthorizationSpecificationError, pg.InvalidCatalogNameError, pg.DataError]),
    (BrokerRefused, [pg.SyntaxOrAccessError, pg.ProgramLimitExceededError]),
)

# Every message leaves dead rows: they are vacuumed early. Many processes may do this at once: the lock makes
# them wait for each other.
MAKE = """
SELECT pg_advisory_xact_lock(7236083771942);
CREATE SCHEMA IF NOT EXISTS "{schema}";
CREATE TABLE IF NOT EXISTS queue (
    queue bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, exchange text NOT NULL, id text NOT NULL,
    bound boolean NOT NULL, UNIQUE (exchange, id)
);
CREATE TABLE IF NOT EXISTS message (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, queue bigint NOT NULL, due timestamptz NOT NULL,
    taken integer NOT NULL DEFAULT 0, released integer NOT NULL DEFAULT 0, envelope bytea, body bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX IF NOT EXISTS message_due ON message (queue, due, n);"""
# Statistics of a queue that was empty must not make the planner read all of a full one. All this is not said
# as a connection begins: PgBouncer refuses what it does not know.
SESSION = """
SET search_path = "{schema}"; SET application_name = 'mqasync';
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;"""
UNSAFE = """
SELECT string_agg(name || ' = off', ', ' ORDER BY name) FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off'"""
GONE = """
WITH gone AS (DELETE FROM queue WHERE exchange = $1 AND id = $2 RETURNING queue)
DELETE FROM message USING gone WHERE message.queue = gone.queue"""
# Without an id ($2) into every bound queue.
PUT = """
INSERT INTO message (queue, due, envelope, body) SELECT queue, now() + wait * interval '1 s', envelope, body
FROM queue, unnest($3::float[], $4::bytea[], $5::bytea[]) WITH ORDINALITY AS given (wait, envelope, body, place)
WHERE exchange = $1 AND (id = $2 OR bound AND $2 = '') ORDER BY place"""
# MATERIALIZED: evaluated once, or more than the limit might be taken.
TAKE = """
WITH next AS MATERIALIZED (
    SELECT n FROM message WHERE queue = $1 AND due <= now() ORDER BY due, n LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE message SET due = now() + $3 * interval '1 s', taken = taken + 1 FROM next WHERE message.n = next.n
RETURNING message.n, taken, taken - released - 1, envelope, body"""
# No row where there is no such queue.
NEXT_DUE = """
SELECT coalesce((SELECT extract(epoch FROM min(due) - now()) FROM message AS m WHERE m.queue = q.queue),
'infinity') FROM queue AS q WHERE queue = $1"""
OURS = "unnest($1::bigint[], $2::integer[]) AS ours (n, taken) WHERE m.n = ours.n AND m.taken = ours.taken"
SETTLE = {
    "ack": f"DELETE FROM message AS m USING {OURS}",  # noqa: S608
    "release": f"UPDATE message AS m SET due = 'epoch', released = released + 1 FROM {OURS}",  # noqa: S608
    "extend": f"UPDATE message AS m SET due = now() + $3 * interval '1 s' FROM {OURS}",  # noqa: S608
}


class PostgresTransport(TableTransport):
    """A few connections to one database: one takes and settles, the others write."""

    features = Features(counts_returns=True, priorities=True, max_bytes=2**27, batch_bytes=2**24)
    errors = ERRORS
    DELETE = GONE

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options."""
        check_options(options, {}, "PostgreSQL")
        self._address = parse(url, form=FORM, port=5432, keys=KEYS)
        settings = self._address.settings
        super().__init__(settings["lease"])
        self._schema = settings["schema"]
        if not SCHEMA.fullmatch(self._schema):
            raise ConfigurationError(f"schema is {self._schema!r}; it takes a-z 0-9 _, without a digit or pg_ first")
        self._files = {name: settings[name] for name in tls.FILES if settings[name]}
        tls.check(self._files, settings["sslmode"] != "off", "sslmode=verify-full", "sslmode=off")
        self._opened = AsyncExitStack()
        self._turn = asyncio.Lock()  # a connection does one thing at a time

    async def open(self) -> None:
        """Connect, and create the tables if they are missing."""
        (host, port), address = self._address.hosts[0], self._address
        pool = pg.create_pool(
            host=host,
            port=port,
            user=address.user or None,
            password=address.password or None,
            database=address.path or None,
            ssl=address.settings["sslmode"] != "off" and tls.context(self._files),
            target_session_attrs="read-write",
            command_timeout=20,  # a connection may be dead without an error
            min_size=1,
            max_size=address.settings["connections"],
            init=lambda connection: connection.execute(SESSION.format(schema=self._schema)),
            reset=lambda connection: asyncio.sleep(0),  # nothing: its settings are for life
        )
        self._writers = await self._opened.enter_async_context(pool)
        if not await self._writers.fetchval("SELECT to_regclass('message') IS NOT NULL"):
            await self._writers.execute(MAKE.format(schema=self._schema))
        if unsafe := await self._writers.fetchval(UNSAFE):
            self.warning = f"a crash of the server can lose confirmed messages: {unsafe}; set that to on"
        self._reader = await self._writers.acquire()
        self._opened.push_async_callback(self._reader.close, timeout=1)
        some = (self._reader, self._reader, self._writers)
        backends = [await one.fetchval("SELECT pg_backend_pid()") for one in some]
        if backends[0] != backends[1] or backends[1] == backends[2]:
            raise BrokerRefused(POOLED)
        # an acknowledgement may get lost, and a message taken twice: neither waits for the disk
        await self._reader.execute("SET synchronous_commit = off")
        await self._reader.add_listener(self._schema, lambda *news: self.changed.tell(news[-1]))

    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        """The rows that the statement returns; the server may lose its changes in a crash."""
        async with self._turn:
            return list(await self._reader.fetch(statement, *arguments))

    async def write(self, statement: str, *arguments: object) -> None:
        """Return when it is committed."""
        await self._writers.execute(statement, *arguments)

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Write a row for each message, and without an `id` for each bound queue."""
        waits = [delay or -AHEAD * message.priority for message in messages]
        envelopes, bodies = [pack(message) for message in messages], [message.body for message in messages]
        if await self._writers.execute(PUT, exchange, id, waits, envelopes, bodies) == "INSERT 0 0":
            raise no_queue(exchange, id)
        await self._notify(exchange)

    async def _notify(self, exchange: str) -> None:
        """Wake waiting receivers, in a transaction of its own: such ones wait for each other's disk writes."""
        with suppress(pg.PostgresError, pg.InterfaceError):  # they look again by themselves
            await self.rows("SELECT pg_notify($1, $2)", self._schema, exchange)

    async def take(self, queue: int, limit: int) -> tuple[list[Row], float]:
        """If no message is due, look when one will be."""
        if rows := await self.rows(TAKE, queue, limit, self.lease):
            return rows, 0.0
        for (due,) in await self.rows(NEXT_DUE, queue):
            return [], max(float(due), LOCKED_PAUSE)
        raise NoSuchQueue("the queue was deleted")

    async def settle(self, what: str, exchange: str, tags: Sequence[tuple[int, int]], *lease: float) -> None:
        """Change the rows, and wake receivers that wait for them."""
        await self.rows(SETTLE[what], *zip(*tags, strict=True), *lease)
        if what == "release":
            await self._notify(exchange)

    async def close(self) -> None:
        """Disconnect."""
        await self._opened.aclose()
