"""Names of ActiveMQ's topics and queues, which are there and how much is in them; no message is handled here."""

from __future__ import annotations

import asyncio

import stompman

from ..errors import BrokerBusy, BrokerLost, Unroutable
from ..transport import DEAD, QueueStats
from .activemq_connection import StompConnection, frame
from .activemq_frames import Frame
from .activemq_message import MARKER
from .activemq_statistics import Statistics, count, drain

BELIEVED_SECONDS = 1.0  # for so long what was there is believed to be there


def topic(exchange: str) -> str:
    """What is sent there, ActiveMQ copies to every queue of the exchange."""
    return f"/topic/VirtualTopic.{exchange}"


def queue(exchange: str, id: str) -> str:
    """The queue of an id or of its dead letters, which ActiveMQ must not copy to; an id has no dot."""
    kind = "Dead" if id.endswith(DEAD) else "Consumer"
    return f"/queue/{kind}.{id.removesuffix(DEAD)}.VirtualTopic.{exchange}"


def expiring(exchange: str, id: str) -> str:
    """The topic where that is sent which is for a queue that expires, and for it alone."""
    return f"/topic/Expiring.{id}.VirtualTopic.{exchange}"


def delayed(destination: str) -> str:
    """Where messages for a queue are until they are due; consumers of a topic have them all from the start."""
    return destination.replace("/queue/", "/queue/Delayed.", 1)


class Topology:
    """What is there and what has to be there. `statistics` is None where the server has none."""

    def __init__(self, publisher: StompConnection, consumer: StompConnection, statistics: Statistics | None) -> None:
        self._publisher, self._consumer = publisher, consumer
        self.statistics = statistics
        self._routable: dict[str, float] = {}  # until when, by exchange
        self._found: dict[tuple[str, str], tuple[str, float]] = {}  # where, and until when; by exchange and id

    async def declare(self, exchange: str, id: str) -> None:
        """Make a queue that a killed broker still has: ActiveMQ remembers only one that has had a message.

        Who looks into a queue makes it as well. That is enough for dead letters, the first of which would make it
        again, and for a broker whose memory is full: it takes no message and answers no question.
        """
        name = queue(exchange, id)
        headers = {"destination": name, MARKER: "1", "persistent": "true"}
        try:
            if id.endswith(DEAD):
                await self._markers(name)
            elif not self.statistics or not await self.statistics.about(name):
                await self._publisher.request(frame(stompman.SendFrame, headers))
        except BrokerBusy:
            await self._markers(name)

    async def delete(self, exchange: str, id: str) -> None:
        """Take out of a queue what nobody holds."""
        name = queue(exchange, id)
        self._found.pop((exchange, id), None)
        for destination in (name, delayed(name)):
            if not self.statistics or await self.statistics.about(destination):
                await drain(self._consumer, destination)

    async def check_routable(self, exchange: str) -> None:
        """Raise Unroutable if no queue is bound; nobody can tell without statistics."""
        now = asyncio.get_running_loop().time()
        if not self.statistics or self._routable.get(exchange, 0.0) > now:
            return
        there = await self.statistics.about(topic(exchange), queue(exchange, "*"))
        if not any(name.startswith("/queue/") or figures.consumers for name, figures in there.items()):
            raise Unroutable(f"no queue is bound to exchange {exchange!r}")
        self._routable[exchange] = now + BELIEVED_SECONDS

    async def destination(self, exchange: str, id: str) -> str:
        """Where to send what is for one queue; without statistics nobody can tell whether it is there.

        Raises BrokerLost where it is not.
        """
        lasting, passing = queue(exchange, id), expiring(exchange, id)
        now = asyncio.get_running_loop().time()
        found, until = self._found.get((exchange, id), (lasting, 0.0))
        if id.endswith(DEAD) or not self.statistics or until > now:
            return found
        there = await self.statistics.about(lasting, passing)
        if lasting not in there and not (passing in there and there[passing].consumers):
            raise BrokerLost(f"there is no queue of {id!r} at exchange {exchange!r}")
        found = lasting if lasting in there else passing
        self._found[exchange, id] = found, now + BELIEVED_SECONDS
        return found

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """What is in the queue and what is delayed; without statistics no more than ActiveMQ shows of each."""
        name, passing = queue(exchange, id), expiring(exchange, id)
        if not self.statistics:
            return QueueStats(*[await count(self._consumer, one, _ours) for one in (name, delayed(name))])
        there = await self.statistics.about(name, delayed(name), passing)
        if name not in there:
            consumers = there[passing].consumers if passing in there else 0
            return QueueStats(0, consumers=consumers) if consumers else None
        size, consumers = there[name]
        if size:  # nobody has consumed yet, perhaps
            size = max(0, size - await self._markers(name))
        return QueueStats(size, there[delayed(name)].size if delayed(name) in there else 0, consumers)

    async def queues(self) -> list[tuple[str, str]] | None:
        """Those that last; without statistics nobody tells."""
        if not self.statistics:
            return None
        there = await self.statistics.about(queue(">", "*"), queue(">", "*" + DEAD))
        return sorted(map(_queue_of, there))

    async def _markers(self, name: str) -> int:
        return await count(self._consumer, name, _marks, selector=f"{MARKER} = '1'")


def _queue_of(destination: str) -> tuple[str, str]:
    """Exchange and id of a destination that queue() has named."""
    kind, id, _, exchange = destination.removeprefix("/queue/").split(".", 3)
    return exchange, id + DEAD if kind == "Dead" else id


def _marks(shown: Frame) -> bool:
    return MARKER in shown.headers


def _ours(shown: Frame) -> bool:
    return MARKER not in shown.headers
