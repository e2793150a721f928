"""Exchanges and queues on RabbitMQ, declared and counted for transports/rabbitmq.py; no message passes here.

exchange: a durable fanout exchange. exchange.id: a durable queue bound to it. exchange.id.dead: its dead
letters. exchange.id.retry.seconds: where messages wait until they expire into exchange.id. A TTL for
each message would not do: it holds only at the head of a queue (../shared/FAULTS.md).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import ChannelNotFoundEntity

from ..transport import DEAD, Options
from .amqp_errors import replies

LADDER = (1, 2, 5, 10, 30, 60, 300, 900, 3600)  # seconds that delayed messages wait
RETURN_LIMIT = 20  # then RabbitMQ buries a message by itself; its own default from version 4 on


class Topology:
    """What has been declared through one connection. All methods raise BrokerLost and BrokerRefused."""

    def __init__(self, connection: AbstractConnection, options: Options) -> None:
        self._connection = connection
        self._options = options
        self._exchanges: set[str] = set()
        self._retry_queues: set[str] = set()
        self._searched: set[str] = set()  # queues whose retry queues are all in _retry_queues

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel for one declaration: a refusal closes it and nothing else."""
        async with replies(), self._connection.channel(publisher_confirms=False) as channel:
            yield channel

    async def exchange(self, exchange: str) -> None:
        """Make sure that the exchange exists."""
        if exchange not in self._exchanges:
            async with self._channel() as channel:
                await channel.declare_exchange(exchange, "fanout", durable=True)
            self._exchanges.add(exchange)

    async def queue(self, exchange: str, id: str, bound: bool) -> None:
        """Make sure that the queue exists, bound to its exchange or reached by its name only."""
        queue = f"{exchange}.{id}"
        if not bound:
            return await self._declare(exchange, queue, {})
        kind = self._type(exchange)
        limit = {"x-delivery-limit": RETURN_LIMIT} if kind == "quorum" else {}
        own = self._options.get(exchange, {})
        await self._declare(exchange, queue, {**passing_on(queue + DEAD, kind), **limit, **own})
        await self.exchange(exchange)
        async with self._channel() as channel:
            await (await channel.get_queue(queue, ensure=False)).bind(exchange)

    async def retry_queue(self, exchange: str, queue: str, delay: float) -> str:
        """The queue in which messages wait for the first step of the ladder that is long enough."""
        step = next((step for step in LADDER if step >= delay), LADDER[-1])
        name = f"{queue}.retry.{step}"
        if name not in self._retry_queues:
            # always quorum: a classic queue passes on unconfirmed, and killed in that moment it loses messages
            arguments = {"x-queue-type": "quorum", **passing_on(queue, "quorum"), "x-message-ttl": step * 1000}
            await self._declare(exchange, name, arguments)
            self._retry_queues.add(name)
        return name

    def forget(self, queue: str) -> None:
        """Somebody has deleted this retry queue: declare it anew when it is next needed."""
        self._retry_queues.discard(queue)

    async def depth(self, queue: str) -> int:
        """Messages that wait in the queue and in its retry queues, those of other processes too."""
        if queue not in self._searched:
            steps = [f"{queue}.retry.{step}" for step in LADDER]
            self._retry_queues |= {name for name in steps if await self._count(name) is not None}
            self._searched.add(queue)
        names = [queue, *(name for name in self._retry_queues if name.startswith(f"{queue}.retry."))]
        return sum([await self._count(name) or 0 for name in names])

    async def _count(self, queue: str) -> int | None:
        """Messages that wait in one queue, None if there is no such queue."""
        async with replies():
            try:
                async with self._connection.channel(publisher_confirms=False) as channel:
                    declared = await channel.declare_queue(queue, passive=True)
                    return declared.declaration_result.message_count or 0
            except ChannelNotFoundEntity:
                return None

    async def _declare(self, exchange: str, queue: str, arguments: Mapping[str, Any]) -> None:
        async with self._channel() as channel:
            arguments = {"x-queue-type": self._type(exchange), **arguments}
            await channel.declare_queue(queue, durable=True, arguments=arguments)

    def _type(self, exchange: str) -> str:
        return str(self._options.get(exchange, {}).get("x-queue-type", "quorum"))


def passing_on(target: str, kind: str) -> dict[str, Any]:
    """Arguments of a queue of that kind that make RabbitMQ itself pass messages on to the queue `target`."""
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
    if kind == "quorum":
        arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    return arguments
