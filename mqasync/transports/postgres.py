"""One PostgreSQL database as the broker, through asyncpg; the contract only, the SQL is in postgres_sql.py.

URL: postgresql://user:password@host:port/database (or postgres://). After "?":
    sslmode (verify-full, the default, or off: without encryption), cafile, certfile, keyfile,
    schema (default mqasync; it and its tables are made when first used, or when a newer mqasync has
    one more, by a role that may; it is nobody else's),
    lease (seconds until an unsettled delivery comes back by itself, default 30),
    connections (of one process, default 4: one takes and is notified, the others publish).
Options: none.
Delivery: a row for each message and queue; publish returns when it is committed. A delivery is
    leased: who holds it longer without extending it loses it, and settling it then has no effect.
    What a killed process held comes back one lease later and is counted.
Order: first in, first out with one consumer and no retries; what is released comes first again.
Delay: exact, by the server's clock.
Dead letters: a queue like any other, "id.dead".
What it cannot do: work through a pooler that shares connections between transactions (PgBouncer's
    pool_mode=transaction), since LISTEN needs its own; find another host by itself (one host a URL).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ..errors import BrokerLost, ConfigurationError, Unroutable
from ..message import Message
from ..transport import Delivery, Features, Options, QueueStats
from . import postgres_sql as sql
from .leased import WATCH_SECONDS, LeasedSubscription, from_row, to_envelope
from .postgres_database import Database, columns
from .postgres_url import Address

LOCKED_PAUSE = 0.05  # what is due and cannot be taken is being taken by somebody else
USED_SECONDS = 1.0  # so often it is written down that a queue is in use
STATEMENT_BYTES = 16 * 1024 * 1024  # of bodies in one statement; PostgreSQL takes less than 1 GB


class PostgresTransport:
    """A few connections to one database, good until one of them is lost."""

    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)
    blocked = ""
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        address = Address(url)
        for exchange, given in options.items():
            for name in given:
                problem = f"unknown option {name!r}: PostgreSQL has no options"
                raise ConfigurationError(problem, "exchanges", exchange, "options", name)
        self.lease = address.lease
        self.database = Database(address, self._look, self._look)
        self._subscriptions: list[PostgresSubscription] = []

    async def open(self) -> None:
        await self.database.open()
        if self.database.unsafe:
            self.warning = (
                f"it can lose confirmed messages when the server or its machine crashes, since {self.database.unsafe};"
                " set that to on in postgresql.conf, or where ALTER ROLE or ALTER DATABASE set it"
            )

    def _look(self, exchange: str = "") -> None:
        """Whoever waits for something new of `exchange`, or of any, looks again."""
        for subscription in self._subscriptions:
            if exchange in ("", subscription.exchange):
                subscription.changed.set()

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        """Delete the queues that have expired, then make this one; once bound it stays bound."""
        await self.database.write(sql.EXPIRE)
        if expires is None:
            await self.database.write(sql.DECLARE, exchange, id, bound)
        else:  # who holds all of its prefetch says only three times a lease, by extend, that it is still there
            await self.database.write(sql.DECLARE_EXPIRING, exchange, id, bound, expires + self.lease)

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the rows and wake who waits for them."""
        await self.database.write(sql.DELETE, exchange, id)
        await self.database.notify(exchange)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Write a row for each message and bound queue."""
        if not await self._put(exchange, None, messages, 0.0):
            raise Unroutable(f"no queue is bound to exchange {exchange!r}")

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Write a row for each message."""
        if not await self._put(exchange, id, messages, delay):
            raise no_queue(exchange, id)

    async def _put(self, exchange: str, id: str | None, messages: Sequence[Message], delay: float) -> bool:
        for part in parts(messages):
            attempts = [message.attempt for message in part]
            envelopes = [to_envelope(message, exchange) for message in part]
            bodies = [message.body for message in part]
            if not await self.database.write(sql.PUT, exchange, id, delay, attempts, envelopes, bodies):
                return False
        await self.database.notify(exchange)
        return True

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> PostgresSubscription:
        queue = await self.database.value(sql.QUEUE, exchange, id)
        if queue is None:
            raise no_queue(exchange, id)
        expires = await self.database.value(sql.EXPIRES, queue)
        subscription = PostgresSubscription(self.database, exchange, queue, self.lease, prefetch, expires is not None)
        self._subscriptions.append(subscription)
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count what is not settled, what somebody holds included: a dead process's messages come back."""
        queue = await self.database.value(sql.QUEUE, exchange, id)
        if queue is None:
            return None
        ((total, delayed),) = await self.database.rows(sql.STATS, queue)
        return QueueStats(total - delayed, delayed)

    async def queues(self) -> list[tuple[str, str]] | None:
        """Read their names."""
        return [(exchange, id) for exchange, id in await self.database.rows(sql.QUEUES)]

    async def close(self) -> None:
        await self.database.close([(subscription.exchange, subscription.held) for subscription in self._subscriptions])


class PostgresSubscription(LeasedSubscription):
    """One consumer of one queue and what it holds."""

    def __init__(
        self, database: Database, exchange: str, queue: int, lease: float, prefetch: int, expiring: bool
    ) -> None:
        """Made by PostgresTransport.subscribe."""
        super().__init__(lease, prefetch)
        self.exchange = exchange
        self._database, self._queue, self._seconds = database, queue, lease
        self._deleted = False
        self._expiring = expiring
        self._used = -USED_SECONDS  # when we last said that the queue is in use, lest it expire

    @property
    def gone(self) -> str:
        """Why nothing comes any more: the database cannot be used, or the queue was deleted."""
        if self._deleted:
            return f"a queue at exchange {self.exchange!r} was deleted"
        return self._database.gone

    async def _take(self, limit: int) -> tuple[list[Delivery], float]:
        await self._use()
        longest = USED_SECONDS if self._expiring else WATCH_SECONDS
        limit = min(limit, self._prefetch - len(self.held))
        if limit <= 0:
            return [], longest
        rows = await self._database.rows(sql.TAKE, self._queue, limit, self._seconds)
        if not rows:
            due = await self._database.value(sql.NEXT_DUE, self._queue)
            self._deleted = due is None
            return [], 0.0 if due is None else min(max(due, LOCKED_PAUSE), longest)
        self.held.update((n, taken) for n, taken, *_ in rows)
        return [self._delivery(*row) for row in sorted(rows)], 0.0

    async def _use(self) -> None:
        if self._expiring and time.monotonic() - self._used >= USED_SECONDS:
            self._used = time.monotonic()
            await self._database.rows(sql.USED, self._queue)

    def _delivery(self, n: int, taken: int, returned: int, attempt: int, envelope: bytes, body: bytes) -> Delivery:
        message, unreadable = from_row(self.exchange, n, envelope, attempt, body)
        return Delivery(message, self, (n, taken), returned, unreadable)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Delete the rows."""
        with self._settling(deliveries) as tags:
            await self._database.rows(sql.ACK, *columns(tags))

    async def retry(self, delivery: Delivery, delay: float) -> None:
        """Let the row be taken again later, with attempt + 1."""
        with self._settling([delivery]) as tags:
            await self._database.write(sql.RETRY, *columns(tags), delay)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Let the rows be taken again, before all others."""
        with self._settling(deliveries) as tags:
            await self._database.rows(sql.RELEASE, *columns(tags))
        await self._database.notify(self.exchange)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Move the end of the lease."""
        tags = [delivery.tag for delivery in deliveries]
        await self._database.rows(sql.EXTEND, *columns(tags), self._seconds)
        await self._use()


def parts(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The messages in order, in parts of at most STATEMENT_BYTES, or of one message."""
    first, size = 0, 0
    for place, message in enumerate(messages):
        size += len(message.body)
        if size > STATEMENT_BYTES and place > first:
            yield messages[first:place]
            first, size = place, len(message.body)
    yield messages[first:]


def no_queue(exchange: str, id: str) -> BrokerLost:
    """What is raised for a queue that was not declared, or is gone."""
    return BrokerLost(f"PostgreSQL has no queue of {id!r} at exchange {exchange!r}")
