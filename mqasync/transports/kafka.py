"""Apache Kafka through aiokafka; the contract only, no retrying, decoding or handling.

URL: kafka://user:password@host:port,host:port or kafkas:// for TLS, always verified; user and password
    are SASL. After "?": session (seconds until a dead process's partitions go to others, default 10),
    mechanism (PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512), cafile, certfile, keyfile.
Options: by exchange, for topics that are not there yet: partitions (default 8), replication (default 3, or
    as many as there are brokers) and topic configs such as {retention.ms: 1209600000}.
Delivery: written by all replicas in sync, by an idempotent producer; topics and groups as kafka_topics.py
    says. A group commits what is settled without a gap, and what is settled behind one as a note with it.
    A process that dies is noticed after `session`; one that joins or leaves makes the group rebalance,
    and what others have in hand of partitions that move then is handled again.
Order: within a partition; messages of one key share one. A consumer of several gives the oldest first.
Delay: by the wall clock; a delayed message waits in its topic and in its consumer's memory.
Dead letters: a queue like any other, "exchange.id.dead", whose topic is "exchange.id.dead.retry".
What it cannot do: share a queue between more consumers than it has partitions; count the deliveries that a
    crash returned; tell a topic that nobody reads from one that is bound (a message is unroutable where its
    exchange has no topic, and that topic stays when its queues are deleted); tell delayed messages from those
    that wait; let a queue expire (one that should is a queue like any other, but keeps what is sent to it alone
    for 10 minutes: what a killed process leaves is a group, which Kafka forgets, and an empty topic of one
    partition); take both of two exchanges whose names differ in . and _ alone; keep messages longer than the
    topic's retention, or the place of a queue that nobody consumes longer than offsets.retention.minutes
    (7 days each, unless set otherwise).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import aiokafka
from aiokafka import errors as kafka
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from ..errors import BrokerLost, Unroutable
from ..message import Message
from ..transport import Features, Options, QueueStats
from . import kafka_url
from .kafka_client import make_no_topics
from .kafka_connection import Connection
from .kafka_errors import REPLY_SECONDS
from .kafka_requests import Committed
from .kafka_subscription import CLOSE_SECONDS, KafkaSubscription
from .kafka_topics import REPLICAS, Topics, group_of, own_topic

HEARTBEAT_SECONDS = 0.5  # at the longest; by its answer a member learns that the group rebalances
FETCH_SECONDS = 0.25  # how long a broker holds a request for records, in which no other partition can be asked for
FOR_EVER = 2**31 - 1


class KafkaTransport:
    """A connection to one Kafka cluster, good until no broker answers."""

    features = Features(durable=True, shared=True, counts_returns=False, keeps_keys_together=True, max_bytes=1_000_000)
    blocked = ""
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        self._settings = kafka_url.parse(url)
        kafka_url.check_options(options)
        self._options = options
        self._connection: Connection | None = None
        self._subscriptions: list[KafkaSubscription] = []
        self._closed = False

    async def open(self) -> None:
        self._arguments = self._settings.connection()
        connection = self._connection = Connection(self._arguments, self._lose)
        await connection.call(connection.open(), 2 * REPLY_SECONDS)
        self._topics = Topics(connection.requests, self._options)
        self.warning = await connection.call(self._warning(), REPLY_SECONDS)

    async def _warning(self) -> str:
        requests = self._open().requests
        brokers = len((await requests.cluster())["brokers"])
        if brokers < REPLICAS:
            return (
                f"Kafka has {brokers} broker(s) and confirms a message before it is on the disk, so a power cut "
                f"can lose it; use {REPLICAS} brokers, a replication of {REPLICAS} and min.insync.replicas=2"
            )
        return ""

    def _lose(self, reason: str) -> None:
        for subscription in self._subscriptions:
            subscription.lose(reason)

    def _open(self) -> Connection:
        if self._connection is None or self._closed:
            raise BrokerLost("the transport is not open")
        return self._connection

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        await self._open().call(self._topics.declare(exchange, id, bound, expires), REPLY_SECONDS)

    async def delete(self, exchange: str, id: str) -> None:
        connection = self._open()
        for subscription in [one for one in self._subscriptions if one.queue == (exchange, id)]:
            await subscription.leave()
            subscription.lose(f"the queue of {id!r} at exchange {exchange!r} was deleted")
        await connection.call(self._topics.delete(exchange, id), REPLY_SECONDS)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        if not await self._open().call(self._topics.exists(exchange), REPLY_SECONDS):
            raise Unroutable(f"no queue is bound to exchange {exchange!r}")
        await self._write(exchange, messages)

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        topic = own_topic(exchange, id)
        if not await self._open().call(self._topics.exists(topic), REPLY_SECONDS):
            raise BrokerLost(f"Kafka has no queue of {id!r} at exchange {exchange!r}")
        await self._write(topic, messages, time.time() + delay if delay > 0 else 0.0)

    async def _write(self, topic: str, messages: Sequence[Message], due: float = 0.0) -> None:
        try:
            await self._open().call(self._open().write(topic, messages, due))
        except BrokerLost as error:
            if isinstance(error.__cause__, kafka.UnknownTopicOrPartitionError):
                self._topics.forget()
            raise

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> KafkaSubscription:
        connection = self._open()
        topics, _ = await connection.call(self._topics.read_by(exchange, id), REPLY_SECONDS)

        async def committed() -> Committed:
            return (await connection.call(self._topics.read_by(exchange, id), REPLY_SECONDS))[1]

        async def send_again(message: Message, delay: float) -> None:
            await self.send(exchange, id, [message], delay)

        subscription = KafkaSubscription(
            self._consumer(group_of(exchange, id)), exchange, id, prefetch, committed, send_again
        )
        self._subscriptions.append(subscription)
        try:
            await connection.call(subscription.open(topics), self._settings.session + REPLY_SECONDS)
        except BaseException:
            await subscription.leave()
            raise
        return subscription

    def _consumer(self, group: str) -> aiokafka.AIOKafkaConsumer:
        session = self._settings.session
        consumer = aiokafka.AIOKafkaConsumer(
            **self._arguments,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # a partition that was added later is read from its beginning
            # a key has the same partition number in both topics of a queue: with this both go to one consumer
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=int(session * 1000),
            heartbeat_interval_ms=int(min(session / 5, HEARTBEAT_SECONDS) * 1000),
            max_poll_interval_ms=FOR_EVER,  # the core paces
            request_timeout_ms=int((session + REPLY_SECONDS) * 1000),  # joining a group waits for the others
            fetch_max_wait_ms=int(FETCH_SECONDS * 1000),
        )
        make_no_topics(consumer._client)
        return consumer

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        return await self._open().call(self._topics.stats(exchange, id), REPLY_SECONDS)

    async def queues(self) -> list[tuple[str, str]] | None:
        return await self._open().call(self._topics.queues(), REPLY_SECONDS)

    async def close(self) -> None:
        if self._closed or self._connection is None:
            return
        self._closed = True
        await asyncio.gather(*(subscription.leave() for subscription in self._subscriptions))
        self._lose("the transport was closed")
        await asyncio.wait([asyncio.ensure_future(self._connection.close())], timeout=CLOSE_SECONDS)
