"""How queues are made of topics and groups, found, counted and deleted; nothing is published or received here.

Exchange: a topic of that name. Queue (exchange, id): the group "exchange.id" with what it committed, which
    reads the exchange's topic if it is bound, and always the topic "exchange.id.retry", where `send` puts
    messages for this queue alone. Names cannot meet: an id has no dot, and no exchange ends in ".retry".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BrokerLost
from ..transport import Options, QueueStats
from . import kafka_url
from .kafka_requests import Committed, Requests
from .names import named
from .offset_tracker import settled_in

MAX_MESSAGE_BYTES = 1_200_000  # a megabyte and the headers; Kafka's default would be too small for both
REPLICAS = 3  # where there are so many brokers
OWN = ".retry"  # the end of the name of a queue's own topic
LEFTOVER_SECONDS = 600  # how long the own topic of a queue that expires keeps a message, at least


def group_of(exchange: str, id: str) -> str:
    """The name of the queue's group."""
    return f"{exchange}.{id}"


def own_topic(exchange: str, id: str) -> str:
    """The topic of what is sent to this queue alone."""
    return group_of(exchange, id) + OWN


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

    async def declare(self, exchange: str, id: str, bound: bool, expires: float | None) -> None:
        """Make what is missing, and commit where the group begins to read."""
        group = group_of(exchange, id)
        if (group, bound) in self._declared:
            return
        options = self._options.get(exchange, {})
        topics = {own_topic(exchange, id): options if expires is None else {**options, **_passing(expires)}}
        if bound:
            topics[exchange] = options
        made = [topic for topic, options in topics.items() if await self._create(topic, options)]
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

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """What was written and is not settled; the own topic does not tell what is delayed from what is not."""
        ask, group = self._requests.ready, group_of(exchange, id)
        committed: Committed = await ask(self._requests.committed, group)
        if not committed:
            return None
        leaders = await ask(self._requests.leaders, {partition.topic for partition in committed})
        ends: dict[Any, int] = await ask(self._requests.ends, leaders)
        waiting = 0
        for partition, end in ends.items():
            offset, note = committed.get(partition, (0, ""))
            waiting += max(0, end - offset - settled_in(note))
        return QueueStats(waiting, consumers=len(await ask(self._requests.members, group)))

    async def queues(self) -> list[tuple[str, str]]:
        """(exchange, id) of every group that has a topic of its own."""
        groups = await self._requests.ready(self._requests.groups)
        topics = {topic["topic"] for topic in (await self._requests.cluster(None))["topics"]}
        return [queue for name in groups if name + OWN in topics and (queue := named(name))]

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the queue's group and its own topic; members of the group come back and find that it is gone."""
        ask = self._requests.ready
        # the group first: without the topic its members would rebalance, and one that is sent away then is told late
        await ask(self._requests.delete_group, group_of(exchange, id))
        await ask(self._requests.delete_topic, own_topic(exchange, id))
        self.forget()


def _passing(expires: float) -> dict[str, Any]:
    """Options of the own topic of a queue that expires: it can stay behind, and should be small then."""
    return {"partitions": 1, "retention.ms": int(1000 * max(LEFTOVER_SECONDS, expires))}
