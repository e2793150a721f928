"""The channel that publishes to RabbitMQ, for transports/rabbitmq.py; nothing is declared or consumed here."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from aio_pika.abc import AbstractConnection

from ..errors import BrokerBusy, BrokerError
from ..message import Message, new_id
from . import aiormq_fast
from .amqp_errors import REPLY_SECONDS, broker_errors, replies
from .amqp_message import to_properties


class Publishing:
    """Publishes through one connection; `tell_blocked(reason)` hears that RabbitMQ blocks it, and "" that no more.

    A channel that was refused is replaced: RabbitMQ 3.10 remembers for each channel where a quorum queue's leader
    was, and if that node had just died, it refuses whatever the channel publishes to the queue later
    (rabbit_fifo_client; tests/faults/test_cluster.py shows it).
    """

    def __init__(self, connection: AbstractConnection, tell_blocked: Callable[[str], None]) -> None:
        self._connection = connection
        self._tell_blocked = tell_blocked
        self._ids = map(f"{new_id()}-{{}}".format, itertools.count())  # AMQP message ids, each used once
        self._replacing = asyncio.Lock()
        self._under_way: Counter[Any] = Counter()  # publishes on each channel

    async def open(self) -> None:
        """Make the channel."""
        self.channel = await self._new_channel()
        aiormq_fast.on_blocked(self.channel.connection, self._tell_blocked)

    async def _new_channel(self) -> Any:
        with broker_errors():
            async with asyncio.timeout(REPLY_SECONDS):
                channel = await self._connection.channel(on_return_raises=True)
                return await channel.get_underlay_channel()

    async def publish(self, exchange: str, routing_key: str, messages: Sequence[Message]) -> None:
        """Publish, and wait for the confirmations: without end, since a blocked connection is waited for.

        Raises BrokerLost, BrokerBusy when a queue does not take a message now, Unroutable.
        """
        channel = self.channel
        self._under_way[channel] += 1
        prepared = [(to_properties(message, next(self._ids)), message.body) for message in messages]
        try:
            with broker_errors():
                await aiormq_fast.while_open(channel, aiormq_fast.publish(channel, exchange, routing_key, prepared))
        except BrokerBusy:
            async with self._replacing:
                if channel is self.channel:
                    self.channel = await self._new_channel()
            raise
        finally:
            self._under_way[channel] -= 1
            if not self._under_way[channel] and channel is not self.channel:
                await self._retire(channel)

    async def _retire(self, channel: Any) -> None:
        """Close a channel that was replaced and has nothing under way any more."""
        del self._under_way[channel]
        with suppress(BrokerError):
            async with replies():
                await channel.close()
