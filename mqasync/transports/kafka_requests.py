"""The few requests of Kafka's protocol for which aiokafka has no method that fits; no queue is known here."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import errors as kafka
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.admin import (
    CreateTopicsRequest,
    DeleteGroupsRequest,
    DeleteTopicsRequest,
    DescribeGroupsRequest,
    ListGroupsRequest,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

Committed = dict[TopicPartition, tuple[int, str]]
"""What a group has committed: the offset and the note with it."""

BOOTSTRAP = ("bootstrap", ConnectionGroup.DEFAULT)  # what aiokafka keeps of its start until a broker is ready
READY_PAUSE = 0.05
CHANGE_MILLISECONDS = 5000  # how long the brokers may take to make or delete a topic
NOT_READY = (  # what brokers say in the moments after a start, a new topic or a change of leaders or members
    kafka.GroupCoordinatorNotAvailableError,
    kafka.GroupLoadInProgressError,
    kafka.LeaderNotAvailableError,
    kafka.NonEmptyGroup,
    kafka.NotControllerError,
    kafka.NotCoordinatorForGroupError,
    kafka.NotLeaderForPartitionError,
    kafka.UnknownTopicOrPartitionError,
)
LATEST = -1  # the "time" of the end of a partition
NO_MEMBER = -1, ""  # generation and member of who commits without being in the group


class Requests:
    """Sends through `client`, an AIOKafkaClient; raises what aiokafka raises."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def cluster(self, topics: Iterable[str] | None = ()) -> dict[str, Any]:
        """What any broker tells of the cluster and `topics`, or of all topics."""
        told: dict[str, Any] = (await self.metadata(topics)).to_object()
        return told

    async def metadata(self, topics: Iterable[str] | None) -> Any:
        """The same as aiokafka has it; makes no topic, whatever the server is set to."""
        nodes = [broker.nodeId for broker in self._client.cluster.brokers()]
        random.shuffle(nodes)
        if BOOTSTRAP in self._client._conns:
            nodes.append(BOOTSTRAP[0])
        request = MetadataRequest(None if topics is None else list(topics), allow_auto_topic_creation=False)
        failure: kafka.KafkaError = kafka.KafkaConnectionError("no broker is known")
        for node in nodes:
            try:
                return await self._client.send(node, request)
            except kafka.KafkaError as error:
                failure = error
        raise failure

    async def leaders(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """The node that leads each partition of those `topics` that exist."""
        leaders = {}
        for topic in (await self.cluster(topics))["topics"]:
            if topic["error_code"] != kafka.UnknownTopicOrPartitionError.errno:
                _check(topic["error_code"], topic["topic"])
                for partition in topic["partitions"]:
                    _check(kafka.LeaderNotAvailableError.errno if partition["leader"] < 0 else 0, topic["topic"])
                    leaders[TopicPartition(topic["topic"], partition["partition"])] = partition["leader"]
        return leaders

    async def create(self, topic: str, partitions: int, replication: int, configs: Mapping[str, str]) -> bool:
        """Make a topic, if it is not there, and wait until it is known; True if it was not there."""
        controller = (await self.cluster())["controller_id"]
        wanted: Any = (topic, partitions, replication, [], list(configs.items()))
        response = await self._client.send(controller, CreateTopicsRequest([wanted], CHANGE_MILLISECONDS, False))
        (told,) = response.to_object()["topic_errors"]
        existed: bool = told["error_code"] == kafka.TopicAlreadyExistsError.errno
        if not existed:
            _check(told["error_code"], told.get("error_message") or topic)
        await self.ready(self._known, topic)
        return not existed

    async def _known(self, topic: str) -> None:
        if not await self.leaders([topic]):
            raise kafka.UnknownTopicOrPartitionError(topic)

    async def delete_topic(self, topic: str) -> None:
        """Delete a topic, if it is there, and wait until it is not known."""
        controller = (await self.cluster())["controller_id"]
        response = await self._client.send(controller, DeleteTopicsRequest([topic], CHANGE_MILLISECONDS))
        ((_, code),) = response.topic_error_codes
        if code != kafka.UnknownTopicOrPartitionError.errno:
            _check(code, topic)
        await self.ready(self._unknown, topic)

    async def _unknown(self, topic: str) -> None:
        if await self.leaders([topic]):
            raise kafka.LeaderNotAvailableError(topic)

    async def ends(self, leaders: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The offset that the next message of each partition will get."""
        by_leader: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        for (topic, partition), leader in leaders.items():
            by_leader[leader][topic].append((partition, LATEST))
        ends = {}
        for leader, topics in by_leader.items():
            response = await self._client.send(leader, OffsetRequest(-1, 0, list(topics.items())))
            for topic, partitions in response.topics:
                for partition, code, _, offset in partitions:
                    _check(code, topic)
                    ends[TopicPartition(topic, partition)] = offset
        return ends

    async def committed(self, group: str) -> Committed:
        """All that `group` has committed."""
        response = await self._coordinator(group, OffsetFetchRequest(group, None))
        _check(response.error_code, group)
        committed = {}
        for topic, partitions in response.topics:
            for partition, offset, note, code in partitions:
                _check(code, topic)
                committed[TopicPartition(topic, partition)] = (offset, note or "")
        return committed

    async def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit for a group without members; UnknownMemberIdError where it has some."""
        topics: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for (topic, partition), offset in offsets.items():
            topics[topic].append((partition, offset, ""))
        response = await self._coordinator(group, OffsetCommitRequest(group, *NO_MEMBER, -1, list(topics.items())))
        for topic, partitions in response.topics:
            for _, code in partitions:
                _check(code, topic)

    async def groups(self) -> set[str]:
        """The names of all groups."""
        names: set[str] = set()
        for broker in (await self.cluster())["brokers"]:
            response = await self._client.send(broker["node_id"], ListGroupsRequest())
            _check(response.error_code, "groups")
            names.update(name for name, *_ in response.groups)
        return names

    async def members(self, group: str) -> list[str]:
        """Who is in `group`; nobody where it is not there."""
        response = await self._coordinator(group, DescribeGroupsRequest([group]))
        (described,) = response.to_object()["groups"]
        _check(described["error_code"], group)
        return [member["member_id"] for member in described["members"]]

    async def delete_group(self, group: str) -> None:
        """Send its members away, who may come back, and delete it; NonEmptyGroup where one was quick to do so."""
        for member in await self.members(group):
            await self._coordinator(group, LeaveGroupRequest(group, member))
        response = await self._coordinator(group, DeleteGroupsRequest([group]))
        ((_, code),) = response.results
        if code != kafka.GroupIdNotFound.errno:
            _check(code, group)

    async def _coordinator(self, group: str, request: Any) -> Any:
        """Send to the broker that keeps `group`."""
        return await self._client.send(await self._client.coordinator_lookup(0, group), request)

    async def ready(self, request: Any, *arguments: Any) -> Any:
        """The answer of one of the methods above, asked again as long as the cluster is not ready for it."""
        while True:
            try:
                return await request(*arguments)
            except NOT_READY:
                await asyncio.sleep(READY_PAUSE)


def _check(code: int, what: str) -> None:
    """Raise what an error code stands for."""
    if code:
        raise kafka.for_code(code)(what)
