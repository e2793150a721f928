"""Asking one consumer of JetStream for messages, some at a time; what becomes of them is decided elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .nats_connection import Connection

NANOSECONDS = 1_000_000_000
GRACE_SECONDS = 10.0  # a pull that JetStream has not ended so long after its time is lost
NOTHING = ("404", "408")  # statuses that end a pull: no messages, or not within its time


class Pull:
    """One pull at a time; `arrived(message)` is called for each message of it."""

    def __init__(self, connection: Connection, arrived: Callable[[Msg], Awaitable[None]]) -> None:
        self.changed = asyncio.Event()
        self.lost = ""  # why
        self.closed = False
        self.began = 0.0  # by time.monotonic(): no message of this pull was leased before
        self._connection = connection
        self._arrived = arrived
        self._missing = 0  # how many messages the pull under way can still bring
        self._hearing: Subscription | None = None

    async def open(self, consumer: str) -> None:
        """Be ready to send requests to `consumer`, a subject. Raises BrokerLost."""
        self._consumer = consumer
        self._inbox = self._connection.new_inbox()
        self._hearing = await self._connection.hear(self._inbox, self._heard)

    def lose(self, reason: str) -> None:
        """It brings nothing any more."""
        self.lost = self.lost or reason
        self.changed.set()

    async def _heard(self, message: Msg) -> None:
        if message.reply:
            self._missing -= 1
            await self._arrived(message)
        else:  # a status: the pull has ended
            self._missing = 0
            status = message.headers or {}
            if status.get("Status") not in NOTHING:
                self.lose(f"JetStream says: {status.get('Description') or status.get('Status')}")
        self.changed.set()

    async def pull(self, limit: int, timeout: float) -> None:
        """Wait up to `timeout` seconds for the first message; return when there is nothing more, or `limit` came."""
        request: dict[str, object] = {"batch": limit, "no_wait": True}
        if timeout > 0:
            request["expires"] = int(timeout * NANOSECONDS)
        self._missing, self.began = limit, time.monotonic()
        await self._connection.tell(self._consumer, msgspec.json.encode(request), reply=self._inbox)
        while self._missing > 0 and not self.closed and not self.lost:
            late = time.monotonic() - self.began - timeout
            if late > GRACE_SECONDS:
                self.lose(f"JetStream has not ended a pull {GRACE_SECONDS:g} s after its time")
            await self.wait(GRACE_SECONDS - late)

    async def wait(self, seconds: float) -> None:
        """Until something changes."""
        self.changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self.changed.wait()

    async def close(self) -> None:
        """End the pull under way; return when all that was on its way has arrived. Safe twice and in an outage."""
        if self.closed:
            return
        self.closed = True
        self.changed.set()
        if self._hearing and not self._connection.lost:
            await self._connection.stop_hearing(self._hearing)
