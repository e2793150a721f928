"""Reading: what is in a queue now, held while somebody looks at it and put back; no handler, nothing is printed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Self, TypeVar

from ..brokers.broker import Broker
from ..brokers.queues import stats
from ..core.dead_letter import explained
from ..errors import BrokerError, BrokerLost
from ..message import Message
from ..transport import DEAD, Delivery

HELD = 60_000  # deliveries that are held at most: they are kept in memory, and RabbitMQ counts to 65,535
HELD_BYTES = 256 * 1024 * 1024  # about what their bodies may take
FEW = 1000  # deliveries that are held at most where each is taken as it comes
PORTION = 100  # deliveries that are received, or settled, at a time
PATIENCE_SECONDS = 5.0  # how long to wait for the next one of those the broker has counted

T = TypeVar("T")


class Reading:
    """`async with Reading(broker, exchange, id) as reading`: what is taken in the block is gone, the rest is put back.

    It ends with as many as the broker counted at its beginning, so that what comes back meanwhile is not met twice,
    and looks at no more than `limit`, holding no more than `held`. Others who consume the queue do not see what is
    held, nor are we shown what they hold. Raises BrokerLost: then everything that was not taken comes back by itself.
    """

    def __init__(self, broker: Broker, exchange: str, id: str, limit: int | None = None, held: int = HELD) -> None:
        self.there = 0  # messages that waited at the beginning
        self.most = 0  # of them are looked at
        self.seen = 0
        self._broker, self._exchange, self._id = broker, exchange, id
        self._limit, self._most_held = limit, held
        self._held: dict[Delivery, None] = {}  # oldest first
        self._bytes = 0  # of their bodies

    async def __aenter__(self) -> Self:
        found = await stats(self._broker, self._exchange, self._id)
        self.there = found.waiting if found else 0
        self.most = self.there if self._limit is None else min(self.there, self._limit)
        if self.most:
            transport = await self._broker.connected()
            self._subscription = await transport.subscribe(self._exchange, self._id, min(self.most, self._most_held))
            self._keeper = asyncio.create_task(self._keep())
        return self

    async def portions(self, wanted: Callable[[Message], bool] = lambda message: True) -> AsyncIterator[list[Delivery]]:
        """Those that are `wanted`, a few at a time, oldest first where the broker keeps an order."""
        while self.seen < self.most and not self.full:
            room = self._most_held - len(self._held)
            deliveries = await self._receive(min(PORTION, self.most - self.seen, room))
            if not deliveries:
                return
            self.seen += len(deliveries)
            if self._id.endswith(DEAD):
                for delivery in deliveries:
                    delivery.message = explained(delivery.message)
            self._held.update(dict.fromkeys(deliveries))
            self._bytes += size(deliveries)
            yield [delivery for delivery in deliveries if wanted(delivery.message)]

    @property
    def full(self) -> bool:
        """True when no more can be held."""
        return len(self._held) >= self._most_held or self._bytes >= HELD_BYTES

    async def _receive(self, limit: int) -> list[Delivery]:
        """One receive, which must not be cancelled: a cancellation closes the subscription, which ends it."""
        receiving = asyncio.create_task(self._subscription.receive(limit, PATIENCE_SECONDS))
        try:
            return await asyncio.shield(receiving)
        except asyncio.CancelledError:
            await self._subscription.close()
            with suppress(BrokerLost):
                self._held.update(dict.fromkeys(await receiving))
            raise

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge them: they are gone for good."""
        await self._subscription.ack(deliveries)
        for delivery in deliveries:
            self._held.pop(delivery, None)
        self._bytes -= size(deliveries)

    async def _keep(self) -> None:
        """Renew the leases of what is held, long before they end, until cancelled."""
        while self._subscription.lease is not None:
            await asyncio.sleep(self._subscription.lease / 3)
            for some in portions(list(self._held)):
                with suppress(BrokerError):  # whoever settles will notice
                    await self._subscription.extend([delivery for delivery in some if delivery in self._held])

    async def __aexit__(self, *error: object) -> None:
        if not self.most:
            return
        try:
            await self._subscription.close()  # first, or what is put back would come to us again
            with suppress(BrokerLost):  # then it comes back by itself
                for some in portions(list(self._held)):
                    await self._subscription.release(some)
        finally:
            self._keeper.cancel()


def size(deliveries: Sequence[Delivery]) -> int:
    """Bytes of their bodies."""
    return sum(len(delivery.message.body) for delivery in deliveries)


def portions(items: Sequence[T], size: int = PORTION) -> Iterator[Sequence[T]]:
    """`items` in their order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def all_of(found: AsyncIterator[Iterable[T]]) -> list[T]:
    """The portions put together."""
    return [one async for some in found for one in some]
