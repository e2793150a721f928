"""TemporaryQueue: a queue that lives as long as its reader (replies, status); nothing is retried or dead-lettered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from operator import methodcaller

from ..errors import BrokerError, BrokerRefused
from ..message import Message
from ..transport import Delivery, QueueStats
from .backoff import pause
from .broker import Broker
from .connection import Connection
from .inbox import Inbox

OURS = "mqasync."  # the names of exchanges for replies and reports begin so
TAP = "tap-"  # the ids of queues where a person only watches begin so
PREFETCH = 100
RECEIVE_SECONDS = 5.0
CLOSE_SECONDS = 2.0

SWEEP_SECONDS = 100.0  # between two searches for queues of processes that were killed
PROBES = 3  # so many that were not received are the sign of that
PROBE = "mqasync-probe"  # header of a message that checks whether anybody receives

Take = Callable[[Sequence[Delivery]], Awaitable[None]]


class TemporaryQueue:
    """`async with TemporaryQueue(...)`: inside, `take` gets the messages; they are acknowledged when it returns.

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

    async def _subscribe(self) -> Inbox:
        async def operation(transport: Connection) -> Inbox:
            await transport.declare(self.exchange, self.id, self._bound, temporary=True)
            return await transport.subscribe(self.exchange, self.id, PREFETCH)

        return await self._broker.call(operation)

    async def _work(self, subscription: Inbox) -> None:
        failures = 0
        while True:
            try:
                deliveries = await subscription.receive(PREFETCH, RECEIVE_SECONDS)
                await self._take([delivery for delivery in deliveries if PROBE not in delivery.message.headers])
                await subscription.ack(deliveries)
                failures = 0
            except BrokerError:
                await subscription.close()
                failures += 1
                await asyncio.sleep(pause(failures))
                subscription = await self._subscribe()

    async def __aexit__(self, *error: object) -> None:
        self.working.cancel()
        await asyncio.gather(self.working, return_exceptions=True)
        with suppress(BrokerError, TimeoutError):  # in an outage the broker deletes it by itself
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._broker.call(lambda transport: transport.delete(self.exchange, self.id))


async def sweep(broker: Broker) -> None:
    """Where the broker does not, delete the temporary queues of killed processes, regularly until cancelled."""
    probes: dict[tuple[str, str], int] = {}
    with suppress(BrokerRefused):  # another process may have the permission
        while not (await broker.connected()).features.temporary:
            probes = await sweep_once(broker, probes)
            await asyncio.sleep(SWEEP_SECONDS)


async def sweep_once(broker: Broker, probes: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Delete the queues in which PROBES probes still wait, and send one to the others.

    `probes` and the returned value: how many were sent to each queue from which no message was received since.
    """
    there: list[tuple[str, str]] | None = await broker.call(methodcaller("queues"))
    sent = {}
    for queue in filter(is_temporary, there or ()):
        found: QueueStats | None = await broker.call(methodcaller("stats", *queue))
        if found is None or found.consumers:
            continue
        waiting = probes.get(queue, 0) if found.total >= probes.get(queue, 0) else 0
        if waiting >= PROBES:
            await broker.call(methodcaller("delete", *queue))
        elif await broker.send(*queue, Message(body=b"", exchange=queue[0], headers={PROBE: ""})):
            sent[queue] = waiting + 1
    return sent


def is_temporary(queue: tuple[str, str]) -> bool:
    """Whether it belongs to one process: the queue of a tap, of replies or of reports."""
    exchange, id = queue
    return id.startswith(TAP) or exchange.startswith(OURS)
