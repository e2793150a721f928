"""One connection to Redis: commands go out together, their replies come in the same order; no command is known here.

redis-py's own clients lend a connection to one command at a time and connect again by themselves.
Here all commands share one, which saves round trips, and when it is lost it stays lost, as the contract wants.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from typing import Any

from redis.asyncio import connection as redis
from redis.exceptions import RedisError, ResponseError

from ..errors import BrokerLost
from .common import tls
from .redis_errors import broker_errors, translated
from .redis_url import Address

REPLY_SECONDS = 10.0
SLOWEST = 1_000_000  # bytes a second that a line carries at least
CLOSE_SECONDS = 2.0


class VerifiedConnection(redis.SSLConnection):
    """A connection with TLS by a context of ours: redis-py's own would trust public authorities beside the cafile."""

    def __init__(self, context: ssl.SSLContext, **settings: Any) -> None:
        super().__init__(**settings)
        self.ssl_context.context = context


class Connection:
    """Good until something fails or `close`; from then on every call raises BrokerLost."""

    def __init__(self, address: Address) -> None:
        """Only remember where it is."""
        self._address = address
        self._packed: list[bytes] = []  # commands to be written
        self._something = asyncio.Event()  # is to be written
        self._replies: deque[tuple[asyncio.Future[Any], int]] = deque()  # to what was called, and how long that was
        self._bytes = 0  # in commands that were not answered yet
        self._tasks: list[asyncio.Task[None]] = []
        self._redis: redis.Connection | None = None
        self._lost = "it is not connected"

    async def open(self) -> None:
        """Connect. Raises as Transport.open does."""
        settings = {**self._address.connection, "protocol": 2, "socket_timeout": None, "socket_keepalive": True}
        settings["socket_connect_timeout"] = REPLY_SECONDS
        if self._address.encrypted:
            self._redis = VerifiedConnection(tls.context(self._address.files), **settings)
        else:
            self._redis = redis.Connection(**settings)
        with broker_errors():
            try:
                async with asyncio.timeout(REPLY_SECONDS):
                    await self._redis.connect()  # type: ignore[no-untyped-call]
            except TimeoutError as error:  # a Redis without TLS waits for ever for the end of a line
                hint = "; is it a port for TLS?" if self._address.encrypted else ""
                raise BrokerLost(f"no answer within {REPLY_SECONDS:g} s{hint}") from error
        self._lost = ""
        self._tasks = [asyncio.create_task(work(self._redis)) for work in (self._write, self._read)]

    async def call(self, *command: str | bytes | int, patience: float = REPLY_SECONDS) -> Any:
        """The reply to one command. Raises BrokerLost, BrokerBusy or BrokerRefused.

        A server that does not answer within `patience` seconds is lost: the commands behind this one wait as well.
        They are counted from when a slow line has carried everything there.
        """
        if self._lost or not self._redis:
            raise BrokerLost(self._lost)
        packed = self._redis.pack_command(*command)
        size = sum(map(len, packed))
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._packed += packed
        self._something.set()
        self._replies.append((reply, size))
        self._bytes += size
        try:
            async with asyncio.timeout(patience + self._bytes / SLOWEST):
                return await reply
        except TimeoutError:
            self._lose(BrokerLost(f"no answer within {patience:g} s"))
            raise BrokerLost(self._lost) from None

    async def _write(self, connection: redis.Connection) -> None:
        """Send what has gathered since the last time; nobody who calls is in the middle of it when cancelled."""
        try:
            while not self._lost:
                await self._something.wait()
                self._something.clear()
                packed, self._packed = self._packed, []
                await connection.send_packed_command(packed, check_health=False)
        except Exception as error:
            self._lose(error)

    async def _read(self, connection: redis.Connection) -> None:
        """Hand every reply to who waits for it."""
        try:
            while True:
                try:
                    reply = await connection.read_response(disconnect_on_error=False)
                except ResponseError as error:
                    self._answer(error=translated(error))
                else:
                    self._answer(reply)
        except Exception as error:
            self._lose(error)

    def _answer(self, reply: Any = None, error: Exception | None = None) -> None:
        future, size = self._replies.popleft()
        self._bytes -= size
        if future.done():
            return  # who called was cancelled
        if error:
            future.set_exception(error)
        else:
            future.set_result(reply)

    def _lose(self, error: Exception) -> None:
        """Nothing goes through any more: tell everybody who waits."""
        if self._lost:
            return
        self._lost = str(error) or "the connection is gone"
        while self._replies:
            self._answer(error=BrokerLost(self._lost))

    async def close(self) -> None:
        """Let go of it. Safe twice and in an outage."""
        self._lose(BrokerLost("the connection was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._redis:
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._redis.disconnect()
