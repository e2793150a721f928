"""Names of ActiveMQ's topics and queues, whether they are there and how much is in them; no message is handled here."""

from __future__ import annotations

import asyncio

import stompman

from ..errors import BrokerBusy, Unroutable
from ..transport import DEAD
from .activemq_connection import StompConnection, frame
from .activemq_frames import Frame
from .activemq_message import MARKER
from .activemq_statistics import Statistics, count

ROUTABLE_SECONDS = 1.0  # for so long an exchange that had a queue is believed to have one


def topic(exchange: str) -> str:
    """What is sent there, ActiveMQ copies to every queue of `bound`."""
    return f"VirtualTopic.{exchange}"


def bound(exchange: str, id: str) -> str:
    """The queue of an id; an id has no dot, so that no two have one name."""
    return f"Consumer.{id}.{topic(exchange)}"


def queue(exchange: str, id: str) -> str:
    """The queue of an id or of its dead letters, which ActiveMQ must not copy to."""
    return f"Dead.{id.removesuffix(DEAD)}.{topic(exchange)}" if id.endswith(DEAD) else bound(exchange, id)


def delayed(queue: str) -> str:
    """Where the messages for `queue` are until they are due."""
    return f"Delayed.{queue}"


class Topology:
    """What is there and what has to be there. `statistics` is None where the server has none."""

    def __init__(self, publisher: StompConnection, consumer: StompConnection, statistics: Statistics | None) -> None:
        self._publisher, self._consumer = publisher, consumer
        self.statistics = statistics
        self._routable: dict[str, float] = {}  # until when, by exchange

    async def declare(self, exchange: str, id: str) -> None:
        """Make a queue that a killed broker still has: ActiveMQ remembers only one that has had a message.

        One of dead letters needs no making: what is sent there makes it. A broker whose memory is full takes
        no message and answers no question; then who looks into a queue makes it, and consumers can begin.
        """
        if id.endswith(DEAD):
            return
        name = queue(exchange, id)
        headers = {"destination": f"/queue/{name}", MARKER: "1", "persistent": "true"}
        try:
            if not self.statistics or not await self.statistics.sizes(name):
                await self._publisher.request(frame(stompman.SendFrame, headers))
        except BrokerBusy:
            await count(self._consumer, name, _ours)

    async def check_routable(self, exchange: str) -> None:
        """Raise Unroutable if no queue is bound; nobody can tell without statistics."""
        now = asyncio.get_running_loop().time()
        if not self.statistics or self._routable.get(exchange, 0.0) > now:
            return
        if not await self.statistics.sizes(bound(exchange, "*")):
            raise Unroutable(f"no queue is bound to exchange {exchange!r}")
        self._routable[exchange] = now + ROUTABLE_SECONDS

    async def depth(self, exchange: str, id: str) -> int:
        """What is in the queue and what is delayed; without statistics no more than ActiveMQ shows of each."""
        name = queue(exchange, id)
        if not self.statistics:
            return await count(self._consumer, name, _ours) + await count(self._consumer, delayed(name), _ours)
        there = await self.statistics.sizes(name) | await self.statistics.sizes(delayed(name))
        total = sum(there.values())
        if there.get(name):  # nobody has consumed yet, perhaps
            total -= await count(self._consumer, name, _marks, selector=f"{MARKER} = '1'")
        return max(total, 0)


def _marks(shown: Frame) -> bool:
    return MARKER in shown.headers


def _ours(shown: Frame) -> bool:
    return MARKER not in shown.headers
