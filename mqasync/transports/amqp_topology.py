"""Exchanges and queues on RabbitMQ, declared, counted and deleted for transports/rabbitmq.py; no message passes here.

exchange: a durable fanout exchange. exchange.id: a durable queue bound to it. exchange.id.dead: its dead
letters. exchange.id.retry.seconds: where messages wait until they expire into exchange.id. A TTL for
each message would not do: it holds only at the head of a queue (../shared/FAULTS.md).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import ChannelNotFoundEntity

from ..errors import BrokerRefused
from ..transport import DEAD, Options, QueueStats
from .amqp_errors import replies

LADDER = (1, 2, 5, 10, 30, 60, 300, 900, 3600)  # seconds that delayed messages wait
RETURN_LIMIT = 20  # then RabbitMQ buries a message by itself; its own default from version 4 on
# Dead letters are looked at as often as anybody likes, and each look ends with a return. Not -1, "no limit" since
# RabbitMQ 4: 3.10 drops a message at its first return then, and some of 4 write -1 into the queue's log again and
# again (github.com/rabbitmq/rabbitmq-server/issues/14202). Set on 3 as well, since a queue lives on in 4.
NO_RETURN_LIMIT = 1_000_000_000
DECLARATIONS = 10  # at once
SEARCH_SECONDS = 60.0  # how long it may take until the retry queues of other processes are counted


class Topology:
    """What has been declared through one connection. All methods raise BrokerLost and BrokerRefused."""

    def __init__(self, connection: AbstractConnection, options: Options) -> None:
        self._connection = connection
        self._options = options
        self._turns = asyncio.Semaphore(DECLARATIONS)
        self._idle: list[AbstractChannel] = []  # channels that nobody declares on now
        self._exchanges: set[str] = set()
        self._retry_queues: set[str] = set()
        self._searched: dict[str, float] = {}  # when the retry queues of a queue were last looked for
        self._expires: dict[str, float] = {}  # in seconds, of the queues that do

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel for one declaration, and then for the next: a refusal closes it and nothing else.

        A thousand consumers declare at once: each has REPLY_SECONDS from its turn on.
        """
        async with self._turns, replies():
            channel = self._idle.pop() if self._idle else await self._connection.channel(publisher_confirms=False)
            yield channel
            self._idle.append(channel)  # not after an error, which closes it

    async def exchange(self, exchange: str) -> None:
        """Make sure that the exchange exists."""
        if exchange not in self._exchanges:
            async with self._channel() as channel:
                await channel.declare_exchange(exchange, "fanout", durable=True)
            self._exchanges.add(exchange)

    async def queue(self, exchange: str, id: str, bound: bool, expires: float | None) -> None:
        """Make sure that the queue exists, bound to its exchange or reached by its name only."""
        queue = f"{exchange}.{id}"
        if expires is not None:
            await self._declare(queue, expiring(expires))
            self._expires[queue] = expires
        elif bound:
            await self._declare(queue, self._arguments(exchange, queue + DEAD))
        else:
            await self._keeping(queue, self._type(exchange))
        if bound:
            await self.exchange(exchange)
            async with self._channel() as channel:
                await (await channel.get_queue(queue, ensure=False)).bind(exchange)

    def _arguments(self, exchange: str, dead: str) -> dict[str, Any]:
        """Of a queue whose messages end in the queue `dead`."""
        kind = self._type(exchange)
        limit = {"x-delivery-limit": RETURN_LIMIT} if kind == "quorum" else {}
        return {"x-queue-type": kind, **passing_on(dead, kind), **limit, **self._options.get(exchange, {})}

    async def _keeping(self, queue: str, kind: str) -> None:
        """Declare a queue that keeps its messages however often they are looked at.

        One from before that was thought of stays as it is, since what it holds is worth more than its arguments.
        """
        arguments = {"x-queue-type": kind}
        if kind == "quorum":
            with suppress(BrokerRefused):
                return await self._declare(queue, arguments | {"x-delivery-limit": NO_RETURN_LIMIT})
        await self._declare(queue, arguments)

    async def retry_queue(self, queue: str, delay: float) -> str:
        """The queue in which messages wait for the first step of the ladder that is long enough."""
        step = next((step for step in LADDER if step >= delay), LADDER[-1])
        name = f"{queue}.retry.{step}"
        if queue in self._expires:
            # it has to go by itself too; to declare it again is what keeps it
            arguments = expiring(self._expires[queue] + step) | passing_on(queue, "classic")
            await self._declare(name, arguments | {"x-message-ttl": step * 1000})
        elif name not in self._retry_queues:
            # always quorum: a classic queue passes on unconfirmed, and killed in that moment it loses messages
            arguments = {"x-queue-type": "quorum", **passing_on(queue, "quorum"), "x-message-ttl": step * 1000}
            await self._declare(name, arguments)
        self._retry_queues.add(name)
        return name

    def forget(self, queue: str) -> None:
        """Somebody has deleted this retry queue: declare it anew when it is next needed."""
        self._retry_queues.discard(queue)

    async def delete(self, queue: str) -> None:
        """The queue and its retry queues are gone; those that are not there are no error."""
        names = [*retry_queues(queue), queue]
        async with self._channel() as channel:
            for name in names:
                await channel.queue_delete(name)
        self._retry_queues.difference_update(names)
        self._expires.pop(queue, None)

    async def stats(self, queue: str) -> QueueStats | None:
        """What waits in the queue and in its retry queues, those of other processes too; None if it is not there."""
        found = await self._count(queue)
        if found is None:
            return None
        waiting, consumers = found
        now = time.monotonic()
        if now - self._searched.get(queue, -math.inf) > SEARCH_SECONDS:
            self._searched[queue] = now  # not each time: RabbitMQ logs an error for each that is not there
            self._retry_queues |= {name for name in retry_queues(queue) if await self._count(name)}
        names = self._retry_queues.intersection(retry_queues(queue))
        delayed = [(await self._count(name) or (0, 0))[0] for name in names]
        return QueueStats(waiting, sum(delayed), consumers)

    async def _count(self, queue: str) -> tuple[int, int] | None:
        """Messages that wait in one queue and its consumers, None if there is no such queue."""
        async with replies():
            try:
                async with self._connection.channel(publisher_confirms=False) as channel:
                    declared = (await channel.declare_queue(queue, passive=True)).declaration_result
                    return declared.message_count or 0, declared.consumer_count or 0
            except ChannelNotFoundEntity:
                return None

    async def _declare(self, queue: str, arguments: Mapping[str, Any]) -> None:
        async with self._channel() as channel:
            await channel.declare_queue(queue, durable=True, arguments=dict(arguments))

    def _type(self, exchange: str) -> str:
        return str(self._options.get(exchange, {}).get("x-queue-type", "quorum"))


def retry_queues(queue: str) -> list[str]:
    """The names that the retry queues of `queue` have if they are there."""
    return [f"{queue}.retry.{step}" for step in LADDER]


def expiring(seconds: float) -> dict[str, Any]:
    """Arguments of a queue that RabbitMQ deletes when it was not used for so long."""
    return {"x-queue-type": "classic", "x-expires": max(1, math.ceil(seconds * 1000))}


def passing_on(target: str, kind: str) -> dict[str, Any]:
    """Arguments of a queue of that kind that make RabbitMQ itself pass messages on to the queue `target`."""
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
    if kind == "quorum":
        arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    return arguments
