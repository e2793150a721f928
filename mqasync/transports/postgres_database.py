"""The connections behind transports/postgres.py: one takes and settles, the others write; no contract here.

None is opened again: when one is lost, all are, and the core makes a new transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from ..errors import BrokerError, BrokerLost
from . import postgres_sql as sql
from .leased import Tag
from .postgres_errors import postgres_errors
from .postgres_url import Address

CONNECT_SECONDS = 10.0
REPLY_SECONDS = 20.0  # a server that takes longer for one statement hangs, or the way to it is cut
CLOSE_SECONDS = 1.0
KEEPALIVE = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}


class Database:
    """Calls `notified` with the exchange that has something new, and `lost` once nothing works any more."""

    def __init__(self, address: Address, notified: Callable[[str], None], lost: Callable[[], None]) -> None:
        """Only remember where it is."""
        self.gone = ""  # why it cannot be used any more
        self.unsafe = ""  # the settings that let a crash of the server take confirmed messages
        self._address, self._notified, self._lost = address, notified, lost
        self._connections: list[Any] = []
        self._relaxed: asyncio.LifoQueue[Any] = asyncio.LifoQueue()  # the connections that are free
        self._safe: asyncio.LifoQueue[Any] = asyncio.LifoQueue()

    async def open(self) -> None:
        """Connect, and make the tables where they are missing."""
        context = self._address.context()
        with postgres_errors():
            async with asyncio.timeout(REPLY_SECONDS):
                first = await self._connect(context)
                if not await first.fetchval(sql.MADE):
                    await first.execute(sql.MAKE.format(schema=self._address.schema))
                self.unsafe = await first.fetchval(sql.UNSAFE) or ""
                await first.execute(sql.RELAXED)
                await first.add_listener(self._address.schema, self._news)
                for _ in range(self._address.connections - 1):
                    self._safe.put_nowait(await self._connect(context))
        self._relaxed.put_nowait(first)

    async def _connect(self, context: Any) -> Any:
        connection = await asyncpg.connect(
            **self._address.arguments,
            ssl=context,
            timeout=CONNECT_SECONDS,
            target_session_attrs="primary",
            server_settings={"application_name": "mqasync", **KEEPALIVE},
        )
        self._connections.append(connection)
        connection.add_termination_listener(self._ended)
        await connection.execute(sql.SESSION.format(schema=self._address.schema))
        return connection

    def _news(self, connection: object, process: int, channel: str, exchange: str) -> None:
        self._notified(exchange)

    def _ended(self, connection: object) -> None:
        self.gone = self.gone or f"a connection to PostgreSQL at {self._address.name} ended"
        self._lost()

    @asynccontextmanager
    async def _one_of(self, free: asyncio.LifoQueue[Any]) -> AsyncIterator[Any]:
        """A connection for one statement."""
        connection = await free.get()
        try:
            if self.gone:
                raise BrokerLost(self.gone)
            with postgres_errors():
                async with asyncio.timeout(REPLY_SECONDS):
                    yield connection
        except BrokerLost as error:
            if isinstance(error.__cause__, TimeoutError):
                connection.terminate()
                self._ended(connection)
            raise
        finally:
            free.put_nowait(connection)

    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        """What it returns; the server may forget what it did in a crash."""
        async with self._one_of(self._relaxed) as connection:
            rows: list[Any] = await connection.fetch(statement, *arguments)
        return rows

    async def value(self, statement: str, *arguments: object) -> Any:
        """The only column of the only row; None if there is no row."""
        rows = await self.rows(statement, *arguments)
        return rows[0][0] if rows else None

    async def write(self, statement: str, *arguments: object) -> int:
        """How many rows it wrote, which are then on the disk."""
        async with self._one_of(self._safe) as connection:
            status: str = await connection.execute(statement, *arguments)
        return int(status.rpartition(" ")[2])

    async def notify(self, exchange: str) -> None:
        """Wake who waits, in a transaction of its own: those with a NOTIFY wait for each other's disk writes.

        If that fails, they look again by themselves.
        """
        with suppress(BrokerLost):
            await self.rows(sql.NOTIFY, self._address.schema, exchange)

    async def close(self, held: Collection[tuple[str, set[Tag]]]) -> None:
        """Give back what is `held` of each exchange, wake who waits, if that is possible soon, and disconnect."""
        usable, self.gone = not self.gone, self.gone or f"PostgreSQL at {self._address.name} was closed"
        self._lost()
        if usable and held:
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._give_back(held)
        closing = [connection.close(timeout=CLOSE_SECONDS) for connection in self._connections]
        await asyncio.gather(*closing, return_exceptions=True)

    async def _give_back(self, held: Collection[tuple[str, set[Tag]]]) -> None:
        connection = await self._relaxed.get()  # and so after the last take
        try:
            with postgres_errors():
                for exchange, tags in held:
                    await connection.execute(sql.RELEASE, *columns(tags))
                    await connection.execute(sql.NOTIFY, self._address.schema, exchange)
        finally:
            self._relaxed.put_nowait(connection)


def columns(tags: Collection[Tag]) -> tuple[list[int], list[int]]:
    """As the statements that settle take them."""
    return [n for n, _ in tags], [taken for _, taken in tags]
