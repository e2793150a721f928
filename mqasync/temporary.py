"""TemporaryQueue: a queue that lives as long as who looks at it (replies, status); nothing is retried or buried."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from .backoff import pause
from .broker import Broker
from .errors import BrokerError, BrokerLost
from .transport import Delivery, Subscription, Transport

TAP = "tap-"  # so begin the ids of queues at which a person only looks on
EXPIRES_SECONDS = 60.0  # the broker deletes the queue of a process that was killed after so long
PREFETCH = 100
RECEIVE_SECONDS = 5.0
CLOSE_SECONDS = 2.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds before a lost subscription is taken up again

Take = Callable[[Sequence[Delivery]], Awaitable[None]]


class TemporaryQueue:
    """`async with TemporaryQueue(...)`: inside, `take` gets what comes, which is acknowledged when it returns.

    Nothing published after entering is missed, except while the broker is away or restarts. With bound=False
    only Transport.send reaches the queue. Entering raises BrokerRefused.
    """

    def __init__(self, broker: Broker, exchange: str, id: str, take: Take, bound: bool = True) -> None:
        self.exchange, self.id = exchange, id
        self._broker = broker
        self._take = take
        self._bound = bound

    async def __aenter__(self) -> TemporaryQueue:
        subscription = await self._subscribe()
        self.working = asyncio.create_task(self._work(subscription))
        return self

    async def _subscribe(self) -> Subscription:
        async def operation(transport: Transport) -> Subscription:
            await transport.declare(self.exchange, self.id, self._bound, EXPIRES_SECONDS)
            return await transport.subscribe(self.exchange, self.id, PREFETCH)

        return await self._broker.call(operation)

    async def _work(self, subscription: Subscription) -> None:
        failures = 0
        while True:
            try:
                deliveries = await subscription.receive(PREFETCH, RECEIVE_SECONDS)
                await self._take(deliveries)
                await subscription.ack(deliveries)
                failures = 0
            except BrokerLost:
                await subscription.close()
                failures += 1
                await asyncio.sleep(pause(failures, FIRST_PAUSE, LONGEST_PAUSE))
                subscription = await self._subscribe()

    async def __aexit__(self, *error: object) -> None:
        self.working.cancel()
        await asyncio.gather(self.working, return_exceptions=True)
        with suppress(BrokerError, TimeoutError):  # in an outage the broker deletes it by itself
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._broker.call(lambda transport: transport.delete(self.exchange, self.id))
