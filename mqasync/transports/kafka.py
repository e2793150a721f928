"""Apache Kafka through aiokafka: topics that are read by groups; no retrying, decoding or handling.

URL: kafka://user:password@host:port,host:port or kafkas:// for TLS, always verified; user and password
    are SASL. After "?": session (seconds until a dead process's partitions go to others, default 10),
    mechanism (PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512), cafile, certfile, keyfile.
Options: by exchange, for topics that are not there yet: partitions (default 8), replication (default 3, or
    as many as there are brokers) and topic configs such as {retention.ms: 1209600000}.
Delivery: written by all replicas in sync, by an idempotent producer. An exchange is a topic of that name.
    A queue is the group "exchange.id" with what it has committed, and the topic "exchange.id.retry" of what
    is sent to it alone. A group commits what is settled without a gap, and what is settled behind one as a
    note with it. A process that dies is noticed after `session`. One that joins or leaves makes the group
    rebalance, which waits up to 2 s for running handlers; what they have not ended by then comes again if it
    moves. A topic that somebody deletes is made again, and read from its beginning by the queues that were
    there before.
Order: within a partition; messages of one key share one.
Delay: by the wall clock; a delayed message waits in its topic and in its consumer's memory.
Dead letters: a queue like any other, "exchange.id.dead", whose topic is "exchange.id.dead.retry".
What it cannot do: share a queue between more consumers than it has partitions; count the deliveries that a
    crash returned; tell a topic that nobody reads from one that is bound (a message is unroutable where its
    exchange has no topic, and that topic stays when its queues are deleted); tell delayed messages from those
    that wait before a consumer has read them; tell queues from topics of others that are called "a.b.retry";
    take both of two exchanges whose names differ in . and _ alone; keep messages longer than the topic's
    retention, or the place of a queue that nobody consumes longer than offsets.retention.minutes (7 days
    each, unless set otherwise).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import re
import time
import weakref
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import aiokafka
from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import create_conn
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.protocol.commit import OffsetCommitRequest

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, ConfigurationError, MessageTooLarge, NoSuchQueue
from ..message import Message
from ..transport import Delivery, Features, Options, QueueStats
from .common.envelope import from_headers, to_headers
from .common.names import named
from .common.url import Key, check_options, parse

FORM = "kafka://user:password@host:port,host:port"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
KEYS = {"session": Key(10.0, 1, 1800), "mechanism": Key("", choices=MECHANISMS)}
PARTITIONS, REPLICAS = 8, 3  # of a topic, where there are so many brokers
TOPIC_KEYS = {"partitions": Key(PARTITIONS, 1, 10_000), "replication": Key(REPLICAS, 1, 100)}
OWN = ".retry"  # the end of the name of a queue's own topic; no exchange ends so, and an id has no dot
UNTIL = "mqasync-until"  # header: seconds since 1970 before which a message waits
MAX_DELAY = 600.0  # retention must not overtake it
MAX_BYTES = 1_200_000  # a megabyte and the headers; Kafka's default would be too small for both
REPLY_MILLISECONDS = 9_000  # less than the core waits: what it cancels would leave a connection open
HANDOVER_SECONDS = 2.0  # how long a rebalance waits for running handlers, and then for our commit
TOGETHER_SECONDS = 0.02  # between two commits; what is settled within it goes together
COMMIT_SECONDS = 60.0  # aiokafka would repeat it for ever where the topic has just been deleted
LOOK_SECONDS = 5.0  # between two looks whether the queue is still there
TRIES, PAUSE = 3, 0.05  # a cluster that does not answer so often is lost
NOTE, NOTED = "mqasync/2", 400  # how many unsettled messages a note names: Kafka takes 4096 bytes
RETRIABLE = [error for error in vars(kafka).values() if getattr(error, "retriable", None) is True]
UNREAD = -1.0
Committed = dict[TopicPartition, tuple[int, str]]
"""What a group has committed: the offset and the note with it."""


class KafkaTransport:
    """A producer, clients that ask and administer, and one consumer for each subscription."""

    features = Features(
        durable=True,
        shared=True,
        counts_returns=False,
        keeps_keys_together=True,
        max_bytes=1_000_000,
        max_delay=MAX_DELAY,
        longest_wait=0.5,
        cancellable_receive=True,
    )
    errors = (
        (NoSuchQueue, [kafka.UnknownTopicOrPartitionError]),
        (MessageTooLarge, [kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError]),
        (BrokerBusy, [*RETRIABLE, kafka.UnknownMemberIdError, kafka.KafkaTimeoutError]),  # lost: see ping
        (BrokerLost, [kafka.OutOfOrderSequenceNumber, kafka.InvalidProducerEpoch, kafka.UnknownError]),
        (BrokerRefused, [kafka.BrokerResponseError, kafka.AuthenticationFailedError]),
    )
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options."""
        self._address = address = parse(url, form=FORM, port=9092, keys=KEYS, secure="kafkas")
        if address.path:
            raise ConfigurationError(f"a Kafka URL has no path, such as {address.path!r}: {FORM}")
        if bool(address.user) != bool(address.password):
            raise ConfigurationError(f"a user has a password, and a password a user: {FORM}")
        if address.settings["mechanism"] and not address.user:
            raise ConfigurationError(f"mechanism is for a user and password: {FORM}")
        self._options: dict[str, dict[str, Any]] = {}
        for exchange, given in options.items():
            configs = {name: as_text(item) for name, item in given.items() if "." in name}
            keys = TOPIC_KEYS | dict.fromkeys(configs, Key(""))
            self._options |= check_options({exchange: {**given, **configs}}, keys, "Kafka")
        self._bound: set[str] = set()  # groups that were declared here to read their exchange
        self._turns: dict[str, itertools.count[int]] = defaultdict(lambda: itertools.count(int(time.time())))
        self._subscriptions: weakref.WeakSet[KafkaSubscription] = weakref.WeakSet()
        self._stops: list[Any] = []

    async def open(self) -> None:
        """Connect, and look how many brokers there are."""
        address = self._address
        tls, sasl = "SSL" if address.encrypted else "PLAINTEXT", "SASL_" if address.user else ""
        self._arguments: dict[str, Any] = {
            "client_id": "mqasync",
            "request_timeout_ms": REPLY_MILLISECONDS,
            "security_protocol": sasl + tls,
            "ssl_context": address.ssl_context(),
            "sasl_mechanism": address.settings["mechanism"] or MECHANISMS[0],
            "sasl_plain_username": address.user or None,
            "sasl_plain_password": address.password or None,
        }
        # raises what aiokafka's clients only log
        (await create_conn(*address.hosts[0], **self._arguments)).close()
        self._arguments["bootstrap_servers"] = [f"[{host}]:{port}" for host, port in address.hosts]
        self._producer = aiokafka.AIOKafkaProducer(
            **self._arguments, enable_idempotence=True, max_batch_size=2**18, max_request_size=MAX_BYTES
        )
        self._reader = aiokafka.AIOKafkaConsumer(**self._arguments)
        self._admin = AIOKafkaAdminClient(**self._arguments)
        self._stops = [self._producer.stop, self._reader.stop, self._admin.close]
        await asyncio.gather(self._producer.start(), self._reader.start(), self._admin.start())
        brokers = len((await self._admin.describe_cluster())["brokers"])
        if brokers < REPLICAS:
            self.warning = (
                f"Kafka has {brokers} broker(s) and confirms a message before it is on the disk, so a power"
                f" cut can lose it; use {REPLICAS} brokers, replication {REPLICAS} and min.insync.replicas=2"
            )

    async def ping(self) -> None:
        """Ask for nothing, of several brokers if the first does not answer."""
        for _ in range(TRIES):
            with suppress(kafka.KafkaError):
                await self._admin.describe_topics([])
                return
            await asyncio.sleep(PAUSE)
        raise BrokerLost("no broker answers")

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Make the topics that are missing, and commit where a new group begins to read."""
        group = f"{exchange}.{id}"
        topics = [group + OWN, exchange] if bound else [group + OWN]
        there = await self._topics()
        made = [topic for topic in topics if topic not in there and await self._create(topic, exchange)]
        self._bound |= {group} if bound else set()
        # ends first: if nothing is committed after that, whoever declares at the same time has not returned
        # before the ends were read, so that neither can make the other one miss what it is promised
        ends = await self._ends(topics)
        try:
            await self.committed(group)  # it was there: a topic of it that was made again is read as a whole
        except NoSuchQueue:
            new = {group + OWN, *made}  # somebody may have published at once
            starts: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
            for (topic, number), end in ends.items():
                starts[topic].append((number, 0 if topic in new else end, ""))
            commit = OffsetCommitRequest(group, -1, "", -1, [*starts.items()])  # in the name of no member
            answer = await self._producer.client.send(await self._admin.find_coordinator(group), commit)
            for code in {code for _, partitions in answer.topics for _, code in partitions}:
                check(code, group)

    async def _create(self, topic: str, exchange: str) -> bool:
        """Make the topic and wait until it is known; False if somebody else was faster."""
        options: dict[str, Any] = {"partitions": PARTITIONS, "max.message.bytes": str(MAX_BYTES)}
        options["replication"] = min(REPLICAS, len(self._producer.client.cluster.brokers()))
        options |= self._options.get(exchange, {})
        if options["replication"] >= REPLICAS:
            options = {"min.insync.replicas": "2"} | options  # what is confirmed is on two machines
        configs = {name: item for name, item in options.items() if name not in TOPIC_KEYS}
        new = NewTopic(topic, options["partitions"], options["replication"], topic_configs=configs)
        ((_, code, why),) = (await self._admin.create_topics([new])).topic_errors
        check(code if code != kafka.TopicAlreadyExistsError.errno else 0, why)
        while topic not in await self._topics():  # noqa: ASYNC110, the brokers tell each other, not us
            await asyncio.sleep(PAUSE)
        return bool(code == 0)

    async def _topics(self) -> set[str]:
        """The names of all topics. To ask for one by its name would make it, if the server is set to that."""
        if not await self._producer.client.set_topics([]):
            raise BrokerBusy("no broker tells its topics")
        return set(self._producer.client.cluster.topics())

    async def _ends(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """The offset that the next message of each partition will get."""
        known = self._producer.client.cluster.partitions_for_topic
        partitions = [TopicPartition(topic, number) for topic in topics for number in known(topic) or ()]
        try:
            return dict(await self._reader.end_offsets(partitions))
        finally:
            self._reader.unsubscribe()  # it would ask for these topics again

    async def committed(self, group: str) -> Committed:
        """What the group has committed. Raises NoSuchQueue if that is nothing of its own topic."""
        for _ in range(2):
            found = await self._admin.list_consumer_group_offsets(group)
            if any(partition.topic == group + OWN for partition in found):
                return {partition: (one.offset, one.metadata or "") for partition, one in found.items()}
            await self._members(group)  # aiokafka does not tell none from a coordinator that cannot say yet
        raise NoSuchQueue(f"Kafka has no queue {group!r}")

    async def _members(self, group: str) -> int:
        (answer,) = await self._admin.describe_consumer_groups([group])
        (told,) = answer.to_object()["groups"]
        check(told["error_code"], group)
        return len(told["members"])

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Write to the exchange's topic; return when all replicas in sync have it."""
        await self._write(exchange, messages, {})

    async def bound(self, exchange: str) -> bool:
        """Publish tells by itself."""
        return True

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Write to the queue's own topic."""
        headers = {UNTIL: f"{time.time() + delay:.3f}"} if delay > 0 else {}
        await self._write(f"{exchange}.{id}{OWN}", messages, headers)

    async def _write(self, topic: str, messages: Sequence[Message], headers: dict[str, str]) -> None:
        """What has a key goes to the partition of that key, the others of one call stay together."""
        known = self._producer.client.cluster.partitions_for_topic
        if not known(topic) and topic not in await self._topics():
            raise NoSuchQueue(f"Kafka has no topic {topic!r}")
        together = next(self._turns[topic]) % len(known(topic))
        writing = [
            await self._producer.send(
                topic,
                value=message.body,
                key=None if message.key is None else message.key.encode(),
                partition=together if message.key is None else None,
                headers=[(name, text.encode()) for name, text in (to_headers(message) | headers).items()],
            )
            for message in messages
        ]
        await asyncio.gather(*writing)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> KafkaSubscription:
        """Join the queue's group, and return when it has given us our partitions."""
        group, session = f"{exchange}.{id}", int(self._address.settings["session"] * 1000)
        reads = {partition.topic for partition in await self.committed(group)}
        consumer = aiokafka.AIOKafkaConsumer(
            **self._arguments | {"request_timeout_ms": REPLY_MILLISECONDS + session},  # the dead delay joins
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # a key has the same partition number in both topics of a queue: with this both go to one consumer
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=session,
            heartbeat_interval_ms=min(session // 5, 500),  # by its answer a member learns of a rebalance
            rebalance_timeout_ms=session + int(2000 * HANDOVER_SECONDS),
            max_poll_interval_ms=2**31 - 1,  # the core paces
            fetch_max_wait_ms=250,  # how long a request for some partitions keeps others from being asked for
        )
        reads |= {exchange} if group in self._bound else set()
        subscription = KafkaSubscription(self, consumer, (exchange, id), reads)
        self._subscriptions.add(subscription)
        try:
            await subscription.open()
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """What was written and is not settled; what is delayed is told once a consumer has read it."""
        group, there = f"{exchange}.{id}", await self._topics()
        committed = await self.committed(group)
        ends = await self._ends(there & {partition.topic for partition in committed})
        trackers = {partition: Tracker(*committed.get(partition, (0, ""))) for partition in ends}
        delayed = sum(tracker.delayed for tracker in trackers.values())
        waiting = sum(trackers[partition].waiting(end) for partition, end in ends.items())
        return QueueStats(max(0, waiting - delayed), delayed, await self._members(group))

    async def queues(self) -> list[tuple[str, str]] | None:
        """All that have a topic of their own."""
        own = [topic.removesuffix(OWN) for topic in await self._topics() if topic.endswith(OWN)]
        return [queue for group in own if (queue := named(group))]

    async def delete(self, exchange: str, id: str) -> None:
        """Delete its own topic, by which consumers see that it is gone, and its group if it is empty."""
        group = f"{exchange}.{id}"
        for subscription in [one for one in self._subscriptions if one.group == group]:
            subscription.lose(NoSuchQueue(f"the queue of {id!r} at exchange {exchange!r} was deleted"))
            await subscription.left
        ((_, code),) = (await self._admin.delete_topics([group + OWN])).topic_error_codes
        check(code, group)
        while group + OWN in await self._topics():  # noqa: ASYNC110, the brokers tell each other, not us
            await asyncio.sleep(PAUSE)
        coordinator = await self._admin.find_coordinator(group)
        await self._producer.client.send(coordinator, DeleteGroupsRequest([group]))

    async def close(self) -> None:
        """Leave the groups and let go of everything; in an outage that goes on when nobody waits any more."""
        await asyncio.shield(self._close())

    async def _close(self) -> None:
        """aiokafka raises then what its tasks did."""
        await asyncio.gather(*(one.close() for one in self._subscriptions), return_exceptions=True)
        await asyncio.gather(*(stop() for stop in self._stops), return_exceptions=True)


class KafkaSubscription(aiokafka.ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a queue's group, and a tracker for each partition that the group has given it.

    aiokafka takes all partitions away for each rebalance. A tracker survives that if its partition comes
    back with what we committed last: then nobody else had it, and the deliveries in hand are still ours.
    """

    lease: float | None = None

    def __init__(self, transport: KafkaTransport, consumer: Any, queue: tuple[str, str], reads: set[str]):
        self.group = ".".join(queue)
        self._transport, self._consumer, self._exchange, self._reads = transport, consumer, queue[0], reads
        self._ours = self._closed = False  # not ours while the group rebalances
        self._lost: Exception | None = None
        self._trackers: dict[TopicPartition, Tracker] = {}
        self._confirmed: Committed = {}  # of our partitions, as far as we know
        self._waiting: list[tuple[float, int, int, Tracker, Message]] = []  # a heap by due time and offset
        self._held: set[Delivery] = set()
        self._settled = asyncio.Event()
        self._committing = asyncio.Lock()
        self._working = asyncio.create_task(self._commit_always())

    async def open(self) -> None:
        """Join the group; by a pattern, since to ask for a topic by its name would make it."""
        self._consumer.subscribe(pattern=f"({'|'.join(map(re.escape, self._reads))})$", listener=self)
        await self._consumer.start()
        while not self._ours and not self._lost:
            await self._read(PAUSE, 1)  # it waits for the group, or raises why not

    async def on_partitions_revoked(self, revoked: object) -> None:
        """aiokafka: the group rebalances. Nothing is begun now, and what ends soon is told before that."""
        self._ours = False
        for delivery in self._held:
            delivery.moved = True
        for _ in range(int(HANDOVER_SECONDS / PAUSE)):
            if self._held and self._reads <= self._consumer.subscription():
                await asyncio.sleep(PAUSE)
        await asyncio.wait([asyncio.create_task(self._commit())], timeout=HANDOVER_SECONDS)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """aiokafka: these are ours from now on. What it raises would only be logged."""
        try:
            committed = await self._transport.committed(self.group)
            if deleted := self._reads - self._consumer.subscription():
                raise NoSuchQueue(f"Kafka has no topic {min(deleted)!r} any more")
            for partition in list(self._trackers):
                if partition not in assigned or committed.get(partition) != self._confirmed.get(partition):
                    self._trackers.pop(partition).alive = False
            for partition in assigned:
                tracker = self._trackers.setdefault(partition, Tracker(*committed.get(partition, (0, ""))))
                self._consumer.seek(partition, tracker.rewind())  # records that came before this come again
            self._confirmed = {partition: at for partition, at in committed.items() if partition in assigned}
            for delivery in self._held:
                delivery.moved = not delivery.tag[0].alive
            self._ours = True
            self._settled.set()
        except kafka.IllegalStateError:
            pass  # the group rebalances once more
        except Exception as error:
            self.lose(error)

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take what was read and is due; else read on."""
        deadline = time.monotonic() + timeout
        while not self._lost:
            due = self._waiting[0][0] - time.time() if self._waiting else timeout
            if not self._ours or not self._waiting or due > 0:
                await self._read(min(deadline - time.monotonic(), due), limit)
            now, brought = time.time(), list[Delivery]()
            while self._ours and self._waiting and self._waiting[0][0] <= now and len(brought) < limit:
                _, offset, _, tracker, message = heapq.heappop(self._waiting)
                if tracker.alive:
                    brought.append(Delivery(message, tag=(tracker, offset)))
            self._held.update(brought)
            if brought or time.monotonic() >= deadline:
                return brought
        raise self._lost

    async def _read(self, seconds: float, limit: int) -> None:
        """Read what is neither settled nor in hand; nothing while the group rebalances: it comes again."""
        read = await self._consumer.getmany(timeout_ms=max(0, int(1000 * seconds)) + 1, max_records=limit)
        for partition, records in read.items() if self._ours else ():
            tracker = self._trackers[partition]
            if records[0].offset < tracker.position:  # of another log: what was settled was in the one before
                tracker.alive = False
                tracker = self._trackers[partition] = Tracker(records[0].offset)
            for record in tracker.read(records):
                message, due = to_message(self._exchange, record)
                tracker.unsettled[record.offset] = due
                heapq.heappush(self._waiting, (due, record.offset, id(tracker), tracker, message))

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Commit them soon."""
        for tracker, offset in (delivery.tag for delivery in deliveries):
            tracker.unsettled.pop(offset, None)
        self._held.difference_update(deliveries)
        self._settled.set()

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Keep them to be handed out again, as long as they are ours."""
        for delivery in deliveries:
            tracker, offset = delivery.tag
            heapq.heappush(self._waiting, (0.0, offset, id(tracker), tracker, delivery.message))
        self._held.difference_update(deliveries)
        self._settled.set()

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing to do: the group keeps its partitions for us as long as our heartbeats come."""

    async def _commit_always(self) -> None:
        """Commit what is settled, and look now and then whether the queue is still there."""
        closed = False
        while not closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._settled.wait()
            self._settled.clear()
            closed = self._closed
            if self._ours:
                await self._commit()
            await asyncio.sleep(TOGETHER_SECONDS)

    async def _commit(self) -> None:
        """Tell the group what is settled; what fails is told the next time.

        Where somebody else has committed, or the commits are gone with their topic, our offsets mean nothing.
        """
        try:
            async with self._committing, asyncio.timeout(COMMIT_SECONDS):
                committed = await self._transport.committed(self.group)
                if gone := self._confirmed.items() - committed.items():
                    raise NoSuchQueue(f"what was committed of topic {min(gone)[0].topic!r} is gone")
                now = {partition: tracker.committable() for partition, tracker in self._trackers.items()}
                if changes := dict(now.items() - self._confirmed.items()):
                    await self._consumer.commit(changes)
                    self._confirmed |= changes
        except NoSuchQueue as error:
            self.lose(error)
        except kafka.CommitFailedError:
            self._ours = False  # until the group has rebalanced
        except (kafka.KafkaError, OSError, TimeoutError):
            self._settled.set()

    def lose(self, error: Exception) -> None:
        """Nothing comes any more; leave the group, in the way of who makes a deleted queue again."""
        self._ours, self._lost = False, self._lost or NoSuchQueue(str(error))
        self.left = asyncio.create_task(self.close())

    async def close(self) -> None:
        """Commit and leave the group: its other members get our partitions at once."""
        self._closed = True
        self._settled.set()
        # not cancelled, of which aiokafka's commit would complain
        await asyncio.wait([self._working], timeout=HANDOVER_SECONDS)
        self._ours = False
        await self._consumer.stop()
        await asyncio.wait([self._working], timeout=REPLY_MILLISECONDS / 1000)


class Tracker:
    """Which messages of one partition are settled, from the moment that it is ours until it is not (`alive`).

    A log remembers one offset for each reader: everything before it is done. So only what is settled without
    a gap may be committed. What is settled behind a gap is told by a note that is committed with the offset.
    """

    def __init__(self, offset: int = 0, note: str = "") -> None:
        self.alive = True
        self.delayed = 0  # by the note
        self.unsettled: dict[int, float] = {}  # ascending: when it is due, or UNREAD by us
        if re.fullmatch(rf"{NOTE}( \d+){{2,{NOTED + 2}}}", note):
            self.delayed, size, *gaps = map(int, note.split()[1:])
            self.unsettled = {offset + gap: UNREAD for gap in gaps}
            offset += size
        self._end = offset  # the first that nobody has read
        self.position = self.rewind()  # of what is read next

    def rewind(self) -> int:
        """Read on where something is unsettled that is not in hand."""
        self.position = next((offset for offset, due in self.unsettled.items() if due == UNREAD), self._end)
        return self.position

    def read(self, records: Sequence[Any]) -> list[Any]:
        """Those that are new, which are unsettled from now on."""
        new = [one for one in records if one.offset >= self._end or self.unsettled.get(one.offset) == UNREAD]
        self.unsettled |= {record.offset: 0.0 for record in new}
        self.position = records[-1].offset + 1
        self._end = max(self._end, self.position)
        for offset in [one for one, due in self.unsettled.items() if due == UNREAD and one < self.position]:
            del self.unsettled[offset]  # the log does not have it any more
        return new

    def waiting(self, end: int) -> int:
        """How many are unsettled in a log that ends before `end`."""
        return len(self.unsettled) + max(0, end - self._end)

    def committable(self) -> tuple[int, str]:
        """The offset to commit, and the note to commit with it: what does not fit into that comes again."""
        first = next(iter(self.unsettled), self._end)
        gaps = list(itertools.islice(self.unsettled, NOTED))
        end = self._end if len(gaps) == len(self.unsettled) else gaps[-1] + 1
        now = time.time()
        delayed = sum(due > now for due in self.unsettled.values())
        note = " ".join(map(str, [NOTE, delayed, end - first, *(offset - first for offset in gaps)]))
        return first, note if delayed or end - first > len(gaps) else ""


def to_message(exchange: str, record: Any) -> tuple[Message, float]:
    """The message of a record, whoever wrote it, and when it is due if that is not now."""
    headers = {name: (text or b"").decode(errors="replace") for name, text in record.headers}
    due = headers.pop(UNTIL, "")
    id = f"{record.topic}/{record.partition}/{record.offset}"  # of a stranger's, always the same
    key = None if record.key is None else record.key.decode(errors="replace")
    message = from_headers(exchange, record.value or b"", headers, id, max(record.timestamp, 0) / 1000, key)
    with suppress(ValueError):
        if due and 0.0 < float(due) - time.time() <= MAX_DELAY:
            return message, float(due)
    return message, 0.0


def as_text(item: Any) -> Any:
    """A topic config of config.yml in Kafka's words; what cannot be one as it is."""
    if isinstance(item, bool):
        return str(item).lower()
    return str(item) if isinstance(item, int | float) else item


def check(code: int, what: str) -> None:
    """Raise what an error code stands for, which aiokafka does not."""
    if code:
        raise kafka.for_code(code)(what)
