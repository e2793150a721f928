"""What SQLite and PostgreSQL have in common: a row for each message and queue, taken for a lease; no SQL here."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec
from msgspec.structs import replace

from ..errors import BrokerLost
from ..message import Message
from ..transport import Delivery
from .common.envelope import MAX_ATTEMPT, YEAR_3000

LEASE_SECONDS = 30.0
WATCH_SECONDS = 5.0  # look so often even if nobody wakes us

Tag = tuple[int, int]  # n and taken of a row: it is ours as long as nobody else took it
DECODER = msgspec.json.Decoder(Message)


def to_envelope(message: Message, exchange: str) -> bytes:
    """All of `message` but its body, published to `exchange`, as JSON."""
    return msgspec.json.encode(replace(message, exchange=exchange, body=b""))


def from_row(exchange: str, n: int, envelope: bytes, attempt: int, body: bytes) -> tuple[Message, str]:
    """The message of row `n`, whoever wrote it, and why it cannot be read, if so."""
    try:
        message, problem = DECODER.decode(envelope), ""
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        message = Message(body=body, exchange=exchange, id=f"{exchange}/{n}")
        problem = f"its envelope is not ours: {error}"
    published = message.time if 0 < message.time < YEAR_3000 else 0.0
    attempt = min(max(attempt, 1), MAX_ATTEMPT)
    return replace(message, exchange=exchange, attempt=attempt, time=published, body=body), problem


class LeasedSubscription(ABC):
    """One consumer of one queue, what it holds, and when it looks again."""

    def __init__(self, lease: float, prefetch: int) -> None:
        """See Subscription."""
        self.lease: float | None = lease
        self.changed = asyncio.Event()
        self.held: set[Tag] = set()
        self._prefetch = prefetch
        self._closed = False

    @property
    @abstractmethod
    def gone(self) -> str:
        """Why nothing comes any more: its transport was closed or is lost; else empty."""

    @abstractmethod
    async def _take(self, limit: int) -> tuple[list[Delivery], float]:
        """Hold what is due and return it, at most `limit`; if there is nothing, when to look again, in seconds."""

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take what is due, oldest first; while nothing is, wait for a change, a due time or the timeout."""
        deadline = time.monotonic() + timeout
        while not self._closed:
            self.changed.clear()
            deliveries, pause = await self._take(limit)
            if self.gone:
                break  # and what was taken is given back
            pause = min(pause, deadline - time.monotonic())
            if deliveries or pause <= 0:
                return deliveries
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.changed.wait()
        if self.gone:
            raise BrokerLost(self.gone)
        return []

    @contextmanager
    def _settling(self, deliveries: Sequence[Delivery]) -> Iterator[list[Tag]]:
        """The tags of the deliveries, which are not held any more afterwards."""
        tags = [delivery.tag for delivery in deliveries]
        try:
            yield tags
        finally:  # where that failed, they come back by their leases
            self.held.difference_update(tags)
            self.changed.set()  # there is room below the prefetch

    async def close(self) -> None:
        """Stop receiving."""
        self._closed = True
        self.changed.set()
