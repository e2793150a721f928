"""The subscription of transports/activemq.py: a queue and its delayed messages; no destination is named here."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import stompman
from msgspec.structs import replace

from ..errors import BrokerLost
from ..message import Message
from ..transport import Delivery
from .activemq_connection import StompConnection, frame
from .activemq_errors import settling
from .activemq_frames import Frame
from .activemq_message import MARKER, due, to_message
from .due_heap import DueHeap

# Delayed messages held here until they are due; what is behind them comes late. ActiveMQ 5.17 may stop at 600
# unsettled messages of a queue until one is acknowledged or another comes, unless its maxPageSize is larger.
WINDOW = 500

SendAgain = Callable[[Sequence[Message], float], Awaitable[None]]
Tag = tuple[str, str]  # STOMP's subscription, and what an ACK names


class ActiveMQSubscription:
    """Some of STOMP's subscriptions; deliveries wait here until the core asks and they are due."""

    lease: float | None = None

    def __init__(
        self, connection: StompConnection, exchange: str, queue: str, prefetch: int, send_again: SendAgain
    ) -> None:
        self.queue = queue
        self._connection, self._exchange = connection, exchange
        self.prefetch, self._send_again = prefetch, send_again
        self._buffer: deque[Delivery] = deque()
        self._waiting: DueHeap[Delivery] = DueHeap()
        self._held: dict[str, set[Tag]] = {}  # what the core has, by STOMP's subscription
        self._changed = asyncio.Event()
        self._closed = False
        self._lost = ""

    async def open(self, windows: Mapping[str, int], options: Mapping[str, str]) -> None:
        """Start to consume from these destinations, so many unsettled messages of each."""
        for destination, window in windows.items():
            headers = {**options, "ack": "client-individual", "activemq.prefetchSize": str(window)}
            self._held[await self._connection.subscribe(destination, self._arrived, **headers)] = set()

    @property
    def ended(self) -> bool:
        """True when nothing comes any more."""
        return self._closed or bool(self._lost)

    def abandon(self, reason: str) -> None:
        """Give everything back, then `lose`."""
        for id in self._held:
            with suppress(BrokerLost):
                self._connection.unsubscribe(id)
        self.lose(reason)

    def lose(self, reason: str) -> None:
        """Let `receive` raise BrokerLost."""
        self._lost = reason
        self._changed.set()

    def _arrived(self, arrived: Frame) -> None:
        """Keep one delivery until it is due and `receive` takes it; a marker has done its duty."""
        if MARKER in arrived.headers:
            with suppress(BrokerLost):
                self._acknowledge([_tag(arrived)])
            return
        message, unreadable = to_message(self._exchange, arrived)
        self._waiting.push(due(arrived), Delivery(message, self, _tag(arrived), unreadable=unreadable))
        self._changed.set()

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        deadline = time.monotonic() + timeout
        while not self.ended:
            self._changed.clear()
            now = time.time()
            while self._waiting.next_due <= now:
                self._buffer.append(self._waiting.pop()[1])
            room = min(limit, len(self._buffer), self.prefetch - sum(map(len, self._held.values())))
            pause = deadline - time.monotonic()
            if room > 0 or pause <= 0:
                return [self._hand_out() for _ in range(room)]
            pause = min(pause, self._waiting.next_due - now)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
        if self._lost:
            raise BrokerLost(self._lost)
        return []

    def _hand_out(self) -> Delivery:
        delivery = self._buffer.popleft()
        self._held[delivery.tag[0]].add(delivery.tag)
        return delivery

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._acknowledge([delivery.tag for delivery in deliveries])
        for delivery in deliveries:
            self._held[delivery.tag[0]].discard(delivery.tag)
        self._changed.set()
        self._leave()

    def _acknowledge(self, tags: Sequence[Tag]) -> None:
        if self._lost:
            raise BrokerLost(self._lost)
        self._connection.write(*(frame(stompman.AckFrame, {"id": tag, "subscription": id}) for id, tag in tags))

    async def retry(self, delivery: Delivery, delay: float) -> None:
        again = replace(delivery.message, attempt=delivery.message.attempt + 1)
        with settling():
            await self._send_again([again], delay)
        await self.ack([delivery])

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """A NACK would send them to ActiveMQ's own dead letters. Where sending fails, the connection is given up."""
        if not deliveries:
            return
        try:
            with settling():
                await self._send_again([delivery.message for delivery in deliveries], 0.0)
        except BrokerLost as error:
            self._connection.lose(str(error))
            raise
        await self.ack(deliveries)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        pass  # ActiveMQ keeps a delivery for us as long as the connection lives

    async def close(self) -> None:
        self._closed = True
        self._changed.set()
        with suppress(BrokerLost):
            self._leave()

    def _leave(self) -> None:
        """End, once closed, what the core holds nothing of: ActiveMQ takes back what was not acknowledged by then."""
        for id, held in self._held.items():
            if self._closed and not held:
                self._connection.unsubscribe(id)


def _tag(arrived: Frame) -> Tag:
    return arrived.headers["subscription"], arrived.headers["ack"]
