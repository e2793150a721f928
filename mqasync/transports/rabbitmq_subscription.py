"""The subscription of transports/rabbitmq.py: one channel that consumes one queue; nothing is declared here."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from aiormq import spec
from msgspec.structs import replace

from ..errors import BrokerError, BrokerLost
from ..message import Message
from ..transport import Delivery
from . import aiormq_fast
from .amqp_errors import replies, settling_errors
from .amqp_message import returns, to_message
from .amqp_poison import why_unreadable

CLOSE_SECONDS = 3.0
SendAgain = Callable[[Message, float], Awaitable[None]]


class RabbitMQSubscription:
    """One channel that consumes one queue; deliveries wait in a buffer until the core asks."""

    lease: float | None = None

    def __init__(self, channel: Any, exchange: str, send_again: SendAgain) -> None:
        self.channel = channel
        self._exchange, self._send_again = exchange, send_again
        self._consumer_tag = ""
        self._buffer: deque[Delivery] = deque()
        self._unsettled: dict[int, None] = {}  # delivery tags, oldest first
        self._something = asyncio.Event()
        self._settling = asyncio.Lock()  # one at a time: `multiple` must not cover what another one is about to settle
        self._closed = False
        self._lost = ""
        channel.closing.add_done_callback(lambda closing: self.lose("the channel is closed"))
        channel.on_consumer_cancel_callbacks.add(lambda frame: self.lose("the broker cancelled the consumer"))

    async def open(self, queue: str, prefetch: int) -> None:
        """Start to consume."""
        await self.channel.basic_qos(prefetch_count=prefetch)
        self._consumer_tag = await aiormq_fast.consume(self.channel, queue, self._arrived)

    def lose(self, reason: str) -> None:
        """Let `receive` raise BrokerLost."""
        self._lost = reason
        self._something.set()

    def _arrived(self, method: spec.Basic.Deliver, properties: spec.Basic.Properties, body: bytes) -> None:
        """Keep one delivery until `receive` takes it."""
        tag = method.delivery_tag or 0
        unreadable = why_unreadable(method, properties)
        if unreadable:
            properties = spec.Basic.Properties()
        message = to_message(self._exchange, properties, body)
        self._unsettled[tag] = None
        returned = returns(properties) if method.redelivered else 0  # the first time, only a stranger can have counted
        self._buffer.append(Delivery(message, self, tag, returned, unreadable))
        self._something.set()

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        if not self._buffer and not self._closed and not self._lost:
            self._something.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._something.wait()
        if self._lost:
            raise BrokerLost(self._lost)
        if self._closed:
            return []
        return [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        tags = sorted(delivery.tag for delivery in deliveries)
        with settling_errors():
            async with self._settling:
                await aiormq_fast.while_open(self.channel, self._ack(tags))

    async def _ack(self, tags: Sequence[int]) -> None:
        for tag in tags:
            self._unsettled.pop(tag, None)
        oldest = next(iter(self._unsettled), tags[-1] + 1)
        contiguous = [tag for tag in tags if tag < oldest]  # nothing unsettled lies between them
        if contiguous:
            await self.channel.basic_ack(contiguous[-1], multiple=True, wait=False)
        for tag in tags[len(contiguous) :]:
            await self.channel.basic_ack(tag, wait=False)

    async def retry(self, delivery: Delivery, delay: float) -> None:
        await self._send_again(replace(delivery.message, attempt=delivery.message.attempt + 1), delay)
        await self.ack([delivery])

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        with settling_errors():
            async with self._settling:
                await aiormq_fast.while_open(self.channel, self._nack(deliveries))

    async def _nack(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._unsettled.pop(delivery.tag, None)
            await self.channel.basic_nack(delivery.tag, requeue=True, wait=False)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        pass  # RabbitMQ keeps a delivery for us as long as the channel lives

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._something.set()
        with suppress(BrokerError):
            async with replies():
                await self.channel.basic_cancel(self._consumer_tag, timeout=CLOSE_SECONDS)
                await self.release(list(self._buffer))
