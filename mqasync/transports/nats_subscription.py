"""The subscription of transports/nats.py: what one consumer holds of one queue; nothing is declared or pulled here."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec
from msgspec.structs import replace
from nats.aio.msg import Msg

from ..errors import BrokerBusy, BrokerError, BrokerLost
from ..message import Message
from ..transport import Delivery
from . import nats_message
from .nats_client import UNREADABLE
from .nats_connection import Connection
from .nats_pull import NANOSECONDS, Pull

SAFE_PART = 0.9  # of a lease: the rest is for the way to the server
BUSY_SECONDS = 0.01  # pause where a pull ends at once with nothing: others ask for more than there is
ACK, NAK, PROGRESS = b"+ACK", b"-NAK", b"+WPI"
SendAgain = Callable[[Message, float], Awaitable[None]]


class Tag(msgspec.Struct, eq=False):
    """Where to settle a delivery, and until when it is certainly ours."""

    reply: str
    until: float  # by time.monotonic()


class NATSSubscription:
    """Pulls as much as the core asks for; JetStream leases it to us."""

    def __init__(self, connection: Connection, exchange: str, prefetch: int, lease: float, again: SendAgain) -> None:
        self.lease: float | None = lease
        self._seconds = lease
        self._connection, self._exchange, self._send_again = connection, exchange, again
        self._prefetch = prefetch
        self._held: set[Delivery] = set()  # not settled yet, those in the buffer included
        self._buffer: deque[Delivery] = deque()
        self._pull = Pull(connection, self._arrived)
        self.open = self._pull.open
        self.lose = self._pull.lose

    async def _arrived(self, message: Msg) -> None:
        """Keep one message until `receive` takes it, unless it is too early or too late for it."""
        wait = nats_message.due(message.headers) - time.time()
        if wait > 0 or self._pull.closed:
            with suppress(BrokerLost):  # then it comes back by its lease
                await self._put_back(message.reply, wait)
            return
        tag = Tag(reply=message.reply, until=self._pull.began + SAFE_PART * self._seconds)
        returned = message.metadata.num_delivered - 1
        if nats_message.due(message.headers):
            returned = max(0, returned - 1)  # once it was put back because it was too early
        content = nats_message.to_message(self._exchange, message)
        unreadable = (message.headers or {}).get(UNREADABLE, "")
        delivery = Delivery(content, self, tag, returned, unreadable)
        self._held.add(delivery)
        self._buffer.append(delivery)

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        deadline = time.monotonic() + timeout
        left = timeout
        while True:
            if not self._buffer:
                await self._look(limit, left)
            if self._pull.lost:
                raise BrokerLost(self._pull.lost)
            left = deadline - time.monotonic()
            if self._pull.closed or self._buffer or left <= 0:
                return self._pop(limit)

    async def _look(self, limit: int, timeout: float) -> None:
        """Pull once, or wait until there is room below the prefetch; often shorter than the timeout."""
        began = time.monotonic()
        room = min(limit, self._prefetch - len(self._held))
        if self._pull.closed or self._pull.lost:
            return
        if room <= 0:
            await self._pull.wait(timeout)
            return
        # short pulls: the leases of what comes are counted from the pull's beginning
        await self._pull.pull(room, min(timeout, self._seconds / 3))
        if not self._buffer and time.monotonic() - began < min(timeout, BUSY_SECONDS):
            await asyncio.sleep(BUSY_SECONDS)

    def _pop(self, limit: int) -> list[Delivery]:
        """The oldest of the buffer; nothing after close()."""
        count = 0 if self._pull.closed else min(limit, len(self._buffer))
        return [self._buffer.popleft() for _ in range(count)]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._acknowledge(self._take(deliveries))

    async def _acknowledge(self, tags: Sequence[Tag]) -> None:
        """Return when JetStream has done it: where it syncs to the disk we would run ahead of it, without end."""
        for tag in tags[:-1]:
            await self._connection.tell(tag.reply, ACK)
        with suppress(BrokerBusy):  # an ack may get lost
            await self._connection.ask([(tag.reply, ACK, None) for tag in tags[-1:]])

    async def retry(self, delivery: Delivery, delay: float) -> None:
        for tag in self._take([delivery]):
            try:
                await self._send_again(replace(delivery.message, attempt=delivery.message.attempt + 1), delay)
            except BrokerError as error:  # such as a full stream: the core puts it back
                self._held.add(delivery)
                raise BrokerLost(str(error)) from error
            await self._acknowledge([tag])

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        for tag in self._take(deliveries):
            await self._put_back(tag.reply)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        now = time.monotonic()
        for delivery in deliveries:
            if delivery in self._held and now < delivery.tag.until:
                delivery.tag.until = now + SAFE_PART * self._seconds
                await self._connection.tell(delivery.tag.reply, PROGRESS)

    def _take(self, deliveries: Sequence[Delivery]) -> list[Tag]:
        """Of those that are ours still, the tags; ours no more from now on. JetStream does not look who settles."""
        if self._connection.lost:
            raise BrokerLost(self._connection.lost)
        now = time.monotonic()
        tags = [delivery.tag for delivery in deliveries if delivery in self._held and now < delivery.tag.until]
        self._held.difference_update(deliveries)
        self._pull.changed.set()  # there is room below the prefetch
        return tags

    async def _put_back(self, reply: str, wait: float = 0.0) -> None:
        """Let JetStream deliver it again, in `wait` seconds."""
        delay = b' {"delay": %d}' % int(wait * NANOSECONDS) if wait > 0 else b""
        await self._connection.tell(reply, NAK + delay)

    async def close(self) -> None:
        if self._pull.closed:
            return
        with suppress(BrokerError):
            await self._pull.close()
            await self.release(list(self._buffer))
        self._buffer.clear()

    async def let_go(self) -> None:
        """Put back everything that is not settled."""
        self.lose("the transport was closed")
        await self.close()
        with suppress(BrokerError):
            await self.release(list(self._held))
