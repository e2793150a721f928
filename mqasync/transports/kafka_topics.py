"""How queues are made of topics and groups, and how many messages are in one; nothing is published or received here.

Exchange: a topic of that name. Queue (exchange, id): the group "exchange.id" with what it committed, which
    reads the exchange's topic if it is bound, and always the topic "exchange.id.retry", where `send` puts
    messages for this queue alone. Names cannot meet: an id has no dot, and no exchange ends in ".retry".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BrokerLost
from ..transport import Options
from . import kafka_url
from .kafka_requests import Committed, Requests
from .offset_tracker import settled_in

MAX_MESSAGE_BYTES = 1_200_000  # a megabyte and the headers; Kafka's default would be too small for both
REPLICAS = 3  # where there are so many brokers


def group_of(exchange: str, id: str) -> str:
    """The name of the queue's group."""
    return f"{exchange}.{id}"


def own_topic(exchange: str, id: str) -> str:
    """The topic of what is sent to this queue alone."""
    return f"{exchange}.{id}.retry"


class Topics:
    """Makes and counts through `requests`; raises what aiokafka raises."""

    def __init__(self, requests: Requests, options: Options) -> None:
        self._requests, self._options = requests, options
        self._known: set[str] = set()  # topics that exist
        self._declared: set[tuple[str, bool]] = set()

    async def exists(self, topic: str) -> bool:
        """True if there is such a topic; asks only until there is."""
        if topic not in self._known and await self._requests.ready(self._requests.leaders, [topic]):
            self._known.add(topic)
        return topic in self._known

    def forget(self) -> None:
        """Somebody deleted a topic: ask again for all of them."""
        self._known.clear()
        self._declared.clear()

    async def declare(self, exchange: str, id: str, bound: bool) -> None:
        """Make what is missing, and commit where the group begins to read."""
        group = group_of(exchange, id)
        if (group, bound) in self._declared:
            return
        topics = [own_topic(exchange, id), *([exchange] if bound else [])]
        made = [topic for topic in topics if await self._create(topic, self._options.get(exchange, {}))]
        # the ends first: if nothing is committed after that, whoever declares at the same time has not returned
        # before the ends were read, so that neither can make the other one miss what it is promised
        ask = self._requests.ready
        ends = await ask(self._requests.ends, await ask(self._requests.leaders, topics))
        committed: Committed = await ask(self._requests.committed, group)
        begun = {partition.topic for partition in committed}
        # of a topic that was made just now everything is read: somebody may have published at once
        starts = {partition: 0 if partition.topic in made else end for partition, end in ends.items()}
        missing = {partition: start for partition, start in starts.items() if partition.topic not in begun}
        if missing:
            await ask(self._requests.commit, group, missing)
        self._declared.add((group, bound))

    async def _create(self, topic: str, options: Mapping[str, Any]) -> bool:
        """Make the topic if there is none; True if there was none."""
        if await self.exists(topic):
            return False
        brokers = len((await self._requests.cluster())["brokers"])
        replication = options.get("replication", min(REPLICAS, brokers))
        configs = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
        if replication >= REPLICAS:
            configs["min.insync.replicas"] = "2"  # what is confirmed is on two machines
        configs |= kafka_url.topic_configs(options)
        partitions = options.get("partitions", kafka_url.PARTITIONS)
        return bool(await self._requests.ready(self._requests.create, topic, partitions, replication, configs))

    async def read_by(self, exchange: str, id: str) -> tuple[list[str], Committed]:
        """The topics that the queue reads, and how far it has. Raises BrokerLost if there is no such queue."""
        committed: Committed = await self._requests.ready(self._requests.committed, group_of(exchange, id))
        if not committed:
            raise BrokerLost(f"Kafka has no queue of {id!r} at exchange {exchange!r}")
        return sorted({partition.topic for partition in committed}), committed

    async def depth(self, exchange: str, id: str) -> int:
        """What was written and is not settled."""
        topics, committed = await self.read_by(exchange, id)
        ask = self._requests.ready
        ends: dict[Any, int] = await ask(self._requests.ends, await ask(self._requests.leaders, topics))
        depth = 0
        for partition, end in ends.items():
            offset, note = committed.get(partition, (0, ""))
            depth += max(0, end - offset - settled_in(note))
        return depth
