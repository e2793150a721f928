"""Apache Kafka through aiokafka: topics that are read by groups; no retrying, decoding or handling.

URL: kafka://user:password@host:port,host:port or kafkas:// for TLS, always verified; user and password
    are SASL. After "?": session (seconds until a dead process's partitions go to others, default 10),
    mechanism (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER), cafile, certfile, keyfile. OAUTHBEARER takes no
    user, but tokenfile, which is read at each connect, or tokencommand, which is run and prints the token:
    kafkas://host?mechanism=OAUTHBEARER&tokencommand=get-token+--for+kafka. It has no shell, and 5 s of time; what it
    prints serves all who connect within the next 5 s; its arguments are masked wherever the URL is shown. A broker
    that ends connections with their tokens (connections.max.reauth.ms) is connected to anew each time.
Options: by exchange, for topics that are not there yet: partitions (default 8), replication (default 3, or
    as many as there are brokers) and topic configs such as {retention.ms: 1209600000}.
Delivery: written by all replicas in sync, by an idempotent producer. An exchange is a topic of that name.
    A queue is the group "exchange.id" with what it has committed, and the topic "exchange.id.retry" of what
    is sent to it alone. A group commits what is settled without a gap, and what is settled behind one as a
    note with it. A process that dies is noticed after `session`. One that joins or leaves makes the group
    rebalance, which waits up to 2 s for running handlers; what they have not ended by then comes again if it
    moves. A topic that somebody deletes is made again, as soon as all consumers of its queues have noticed,
    and read from its beginning.
Order: within a partition; messages of one key share one.
Delay: by the wall clock; a delayed message waits in its topic and in its consumer's memory, and is written
    anew every 10 minutes.
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
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import create_conn
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.protocol.commit import OffsetCommitRequest

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, ConfigurationError, MessageTooLarge, NoSuchQueue
from ..message import Message
from ..transport import Delivery, Features, Options, QueueStats
from .common.envelope import DUE, from_headers, to_headers, to_time
from .common.names import named
from .common.url import Key, check_options, existing, parse
from .kafka_tokens import Tokens

FORM = "kafka://user:password@host:port"
OAUTH = "OAUTHBEARER"
MECHANISM = Key("", choices=("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTH))
KEYS = {"session": Key(10.0, 1, 1800), "mechanism": MECHANISM, "tokenfile": Key(""), "tokencommand": Key("")}
PARTITIONS, REPLICAS = 8, 3  # of a topic, where there are so many brokers
TOPIC_KEYS = {"partitions": Key(PARTITIONS, 1, 10_000), "replication": Key(REPLICAS, 1, 100)}
OWN = ".retry"  # the end of the name of a queue's own topic; no exchange ends so, and an id has no dot
MAX_BYTES = 1_200_000  # a megabyte and the headers; Kafka's default would be too small for both
PRODUCER = {"enable_idempotence": True, "max_batch_size": 2**19, "max_request_size": MAX_BYTES}
MEMBER = {"enable_auto_commit": False, "auto_offset_reset": "earliest", "max_poll_interval_ms": 2**31 - 1}
REPLY_MILLISECONDS = 9_000  # less than the core waits: what it cancels would leave a connection open
HANDOVER_SECONDS = 2.0  # how long a rebalance waits for running handlers, and then for our commit
PAUSE = 0.05  # seconds between two questions, or two commits: what is settled within it goes together
LONGEST_DELAY = 600.0  # seconds until a message that waits is written anew: retention must not overtake it
WARNING = "a power cut can lose what {} broker(s) have confirmed: use 3, with min.insync.replicas=2"
READ = 256  # records that are taken from aiokafka together
NOTED = 250  # how many unsettled messages a note names: Kafka takes 4096 bytes
Committed = dict[TopicPartition, tuple[int, str]]
RETRIABLE = [error for error in vars(kafka).values() if getattr(error, "retriable", None) is True]


class KafkaTransport:
    """A producer, clients that ask and administer, and one consumer for each subscription."""

    features = Features(counts_returns=False, keeps_keys_together=True, max_bytes=1_000_000, max_delay=0, beside=True)
    errors = (
        (NoSuchQueue, [kafka.UnknownTopicOrPartitionError]),
        (NoSuchQueue, [kafka.ConsumerStoppedError], "a topic is gone, or what its group has committed of it"),
        (MessageTooLarge, [kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError]),
        (BrokerBusy, [*RETRIABLE, kafka.UnknownMemberIdError, kafka.KafkaTimeoutError]),  # lost: see ping
        (BrokerLost, [kafka.OutOfOrderSequenceNumber, kafka.InvalidProducerEpoch, kafka.UnknownError]),
        (BrokerRefused, [kafka.BrokerResponseError, kafka.AuthenticationFailedError]),
    )
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options."""
        self._address = address = parse(url, form=FORM, port=9092, keys=KEYS, secure="kafkas")
        user, mechanism = address.user, address.settings["mechanism"]
        oauth, token = mechanism == OAUTH, (address.settings["tokenfile"], address.settings["tokencommand"].strip())
        if address.path or bool(user) != bool(address.password) or (mechanism and not user and not oauth):
            raise ConfigurationError(f"Kafka takes no path, and no mechanism, user or password alone: {FORM}")
        if sum(map(bool, token)) != oauth or (oauth and user):
            raise ConfigurationError(
                f"mechanism={OAUTH} takes one of tokenfile and tokencommand, and no user; others none"
            )
        self._arguments: dict[str, Any] = {
            "request_timeout_ms": REPLY_MILLISECONDS,
            "security_protocol": ("SASL_" if user or oauth else "") + ("SSL" if address.encrypted else "PLAINTEXT"),
            "sasl_mechanism": mechanism or "PLAIN",
            "sasl_plain_username": user,
            "sasl_plain_password": address.password,
            "sasl_oauth_token_provider": Tokens(*token),
        }
        # what has a dot in its name is Kafka's, and checked there
        configs = {name: Key("") for given in options.values() for name in given if "." in name}
        self._options = check_options(options, TOPIC_KEYS | configs, "Kafka", ["queue"])
        self.subscriptions: set[KafkaSubscription] = set()
        self._stops: list[Any] = []
        self._turns, self._writing = count(), dict[tuple[str, int], asyncio.Lock]()

    async def open(self) -> None:
        """Connect, and look how many brokers there are."""
        self._arguments["ssl_context"] = self._address.ssl_context()
        # raises what aiokafka's clients only log
        (await create_conn(*self._address.hosts[0], **self._arguments)).close()
        self._arguments["bootstrap_servers"] = [f"[{host}]:{port}" for host, port in self._address.hosts]
        self._producer = AIOKafkaProducer(**self._arguments, **PRODUCER)
        self._reader = AIOKafkaConsumer(**self._arguments)
        self._admin = AIOKafkaAdminClient(**self._arguments)
        self._stops = [self._producer.stop, self._reader.stop, self._admin.close]
        await asyncio.gather(self._producer.start(), self._reader.start(), self._admin.start())
        self._replicas = min(REPLICAS, len((await self._admin.describe_cluster())["brokers"]))
        self.warning = WARNING.format(self._replicas) if self._replicas < REPLICAS else ""

    async def ping(self) -> None:
        """Ask one broker for nothing, all of them if it does not answer; and look after what is consumed."""
        for subscription in self.subscriptions:
            subscription.commit_soon()
        with suppress(kafka.KafkaError):
            await self._admin.describe_topics([])
            return
        await self._topics()

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Make the topics that are missing, and commit where the group begins to read each."""
        group = self._name(exchange, id)
        own = group + OWN
        wanted, new = {own, exchange} if bound else {own}, {own}
        while missing := wanted - await self._topics():
            await self._create(missing, exchange)
            new |= missing  # somebody may have published at once
        # ends first: if nothing is committed after that, whoever declares at the same time has not returned
        # before the ends were read, so that neither can make the other one miss what it is promised
        starts = {one: 0 if one.topic in new else end for one, end in (await self._ends(wanted)).items()}
        with suppress(NoSuchQueue):
            read = {partition.topic for partition in (await self.group(group))[0]}
            starts = {one: 0 for one in starts if one.topic not in read}  # a topic of it was made again
        if existing(self._options, exchange, id):  # it goes on where it was
            starts = {one: starts[one] for one in starts.keys() - await self._admin.list_consumer_group_offsets(group)}
        if starts:
            topics = [(one.topic, [(one.partition, offset, "")]) for one, offset in starts.items()]
            commit = OffsetCommitRequest(group, -1, "", -1, topics)  # in no member's name
            answer = await self._producer.client.send(await self._admin.find_coordinator(group), commit)
            check(next((code for _, some in answer.topics for _, code in some if code), 0), group)

    def _name(self, exchange: str, id: str) -> str:
        """The queue's group."""
        return existing(self._options, exchange, id) or f"{exchange}.{id}"

    async def _create(self, topics: set[str], exchange: str) -> None:
        """Make the topics, unless somebody else was faster."""
        configs = {"max.message.bytes": str(MAX_BYTES)} | self._options.get(exchange, {})
        configs.pop("queues", None)
        number, copies = configs.pop("partitions", PARTITIONS), configs.pop("replication", self._replicas)
        # so that what is confirmed is on two machines
        safe = {"min.insync.replicas": "2"} if copies >= REPLICAS else {}
        new = [NewTopic(topic, number, copies, topic_configs=safe | configs) for topic in topics]
        for _, code, why in (await self._admin.create_topics(new)).topic_errors:
            check(code if code != kafka.TopicAlreadyExistsError.errno else 0, why)
        await asyncio.sleep(PAUSE)  # the brokers tell each other, not us

    async def _topics(self) -> set[str]:
        """The names of all topics. To ask for one by its name would make it, if the server is set to that."""
        if not await self._producer.client.set_topics([]):
            raise BrokerLost("no broker answers")
        return set(self._producer.client.cluster.topics())

    async def _ends(self, topics: set[str]) -> dict[TopicPartition, int]:
        """The offset that the next message of each partition will get."""
        there, known = topics & await self._topics(), self._producer.client.cluster.partitions_for_topic
        partitions = [TopicPartition(topic, number) for topic in there for number in known(topic)]
        ends = await self._reader.end_offsets(partitions)
        self._reader.unsubscribe()  # it would ask for these topics again
        return dict(ends)

    async def group(self, name: str, read: Iterable[TopicPartition] = ()) -> tuple[Committed, int]:
        """What the group has committed, and how many members it has.

        Raises NoSuchQueue if it has committed nothing of one of these partitions, or of its own topic.
        """
        (told,) = (await self._admin.describe_consumer_groups([name]))[0].to_object()["groups"]
        check(told["error_code"], name)  # a coordinator that cannot say yet looks like one with no commits
        found: Committed = dict(await self._admin.list_consumer_group_offsets(name))
        if missing := {TopicPartition(name + OWN, 0), *read} - found.keys():
            raise NoSuchQueue(f"Kafka has no queue {name!r} that reads topic {min(missing).topic!r}")
        return found, len(told["members"])

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Write to the topic of that name; return when all replicas in sync have it.

        What has a key goes to the partition of that key, the others of one call stay together.
        """
        known, batch = self._producer.client.cluster.partitions_for_topic, self._producer.create_batch()
        if not known(exchange) and exchange not in await self._topics():
            raise NoSuchQueue(f"Kafka has no topic {exchange!r}")
        together, singly, writing = next(self._turns) % len(known(exchange)), [], []
        for message in messages:
            headers = [(name, text.encode()) for name, text in to_headers(message).items()]
            record: dict[str, Any] = {"value": message.body, "headers": headers}
            if message.key is not None:
                singly.append(record | {"key": message.key.encode()})
            elif len(messages) == 1 or not batch.append(timestamp=None, key=None, **record):
                singly.append(record | {"partition": together})
        if batch.record_count():
            # one waits at a time: of several aiokafka counts wrongly how long they have waited, and refuses them
            async with self._writing.setdefault((exchange, together), asyncio.Lock()):
                writing.append(await self._producer.send_batch(batch, exchange, partition=together))
        writing += [await self._producer.send(exchange, **record) for record in singly]
        await asyncio.gather(*writing)

    async def bound(self, exchange: str) -> bool:
        """Publish tells by itself."""
        return True

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Write to the queue's own topic."""
        await self.publish(self._name(exchange, id) + OWN, messages)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> KafkaSubscription:
        """Begin to join the queue's group."""
        group, session = self._name(exchange, id), int(self._address.settings["session"] * 1000)
        committed, _ = await self.group(group)
        consumer = AIOKafkaConsumer(
            # the dead delay who joins
            **self._arguments | MEMBER | {"request_timeout_ms": REPLY_MILLISECONDS + session},
            group_id=group,
            # a key has the same partition number in both topics of a queue: with this both go to one consumer
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=session,
            heartbeat_interval_ms=min(session // 5, 500),  # by its answer a member learns of a rebalance
            rebalance_timeout_ms=session + int(2000 * HANDOVER_SECONDS),
        )
        subscription = KafkaSubscription(self, consumer, exchange, group, committed)
        # by a pattern, since to ask for a topic by its name would make it
        consumer.subscribe(pattern="|".join(re.escape(p.topic) + "$" for p in committed), listener=subscription)
        await consumer.start()
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """What was written and is not settled; what is delayed is told once a consumer has read it."""
        committed, members = await self.group(self._name(exchange, id))
        ends = await self._ends({partition.topic for partition in committed})
        trackers = [(Tracker(*committed.get(partition, ())), end) for partition, end in ends.items()]
        delayed = sum(tracker.delayed for tracker, _ in trackers)
        waiting = sum(len(tracker.left()) + max(0, end - tracker.end) for tracker, end in trackers)
        return QueueStats(max(0, waiting - delayed), delayed, members)

    async def queues(self) -> list[tuple[str, str]] | None:
        """All that have a topic of their own."""
        own = [topic.removesuffix(OWN) for topic in await self._topics() if topic.endswith(OWN)]
        return [queue for group in own if (queue := named(group))]

    async def delete(self, exchange: str, id: str) -> None:
        """Delete its own topic. What the group has committed of it goes too, by which its consumers know."""
        group = self._name(exchange, id)
        check((await self._admin.delete_topics([group + OWN])).topic_error_codes[0][1], group)
        while await self.group(group):  # noqa: ASYNC110
            await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        """Leave the groups and let go of everything; in an outage that goes on when nobody waits any more."""
        stops = [*(one.consumer.stop for one in self.subscriptions), *self._stops]
        await asyncio.shield(asyncio.gather(*(stop() for stop in stops), return_exceptions=True))


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a queue's group, and a tracker for each partition that the group has given it.

    aiokafka takes all partitions away for each rebalance. A tracker survives that if its partition comes
    back with what we committed last: then nobody else had it, and the deliveries in hand are still ours.
    """

    lease: float | None = None

    def __init__(self, transport: KafkaTransport, consumer: Any, exchange: str, group: str, read: Committed):
        self._transport, self.consumer = transport, consumer
        self._exchange, self._group, self._confirmed = exchange, group, read  # committed, as far as we know
        self._ours = False  # not while the group rebalances
        self._trackers: dict[TopicPartition, Tracker] = {}
        self._ready: list[Delivery] = []
        self._held: set[Delivery] = set()
        self._committing: asyncio.Task[None] | None = None
        transport.subscriptions.add(self)

    async def on_partitions_revoked(self, revoked: object) -> None:
        """aiokafka: the group rebalances. Nothing is begun now, and what ends soon is told before that."""
        self._ours = False
        for delivery in self._held:
            delivery.moved = True
        for _ in range(int(HANDOVER_SECONDS / PAUSE)):
            if self._held:
                await asyncio.sleep(PAUSE)
        await asyncio.wait([self.commit_soon()], timeout=HANDOVER_SECONDS)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """aiokafka: these are ours from now on. What it raises would only be logged."""
        try:
            committed, _ = await self._transport.group(self._group, self._confirmed)
            old, self._trackers = self._trackers, {}
            for one in assigned & self.consumer.assignment():  # the group may rebalance once more
                kept = old.get(one) if committed.get(one) == self._confirmed.get(one) else None
                tracker = self._trackers[one] = kept or Tracker(*committed.get(one, ()))
                self.consumer.seek(one, tracker.position)  # what came before this comes again
            self._confirmed, self._ours = committed, True
        except Exception:
            self._leaving = asyncio.create_task(self.close())

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take what was read and is due; else read on. What comes while the group rebalances comes again."""
        if not self._ready or not self._ours:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout + PAUSE):  # a rebalance takes longer
                    self._take(await self.consumer.getmany(timeout_ms=int(1000 * timeout) + 1, max_records=READ))
        ready = self._ready[:limit] if self._ours else []
        del self._ready[: len(ready)]
        brought = [delivery for delivery in ready if delivery.tag[0] in self._trackers.values()]
        self._held.update(brought)
        return brought

    def _take(self, read: dict[TopicPartition, list[Any]]) -> None:
        """Keep what is not settled until it is due."""
        for partition, records in read.items() if self._ours else ():
            tracker = self._trackers[partition]
            if records[0].offset < tracker.position:  # of another log
                tracker = self._trackers[partition] = Tracker(records[0].offset)
            for record in tracker.read(records):
                delivery = Delivery(to_message(self._exchange, record), tag=(tracker, record.offset))
                due = min(to_time(delivery.message.headers.get(DUE)), time.time() + LONGEST_DELAY)
                tracker.unsettled[record.offset] = due
                if due > time.time():
                    asyncio.get_running_loop().call_later(due - time.time(), self._ready.append, delivery)
                else:
                    self._ready.append(delivery)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Commit them soon."""
        for tracker, offset in (delivery.tag for delivery in deliveries):
            tracker.unsettled.pop(offset, None)
        self._held.difference_update(deliveries)
        self.commit_soon()

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Keep them to be handed out again, as long as they are ours."""
        self._ready[:0] = [Delivery(one.message, tag=one.tag) for one in deliveries]
        self._held.difference_update(deliveries)

    def commit_soon(self) -> asyncio.Task[None]:
        """Tell the group what is settled, and look whether the queue is still there."""
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        return self._committing

    async def _commit(self) -> None:
        """Tell it until there is no more to tell; what fails is told the next time.

        Where a topic was deleted its commits are gone: then our offsets mean nothing, and we leave the group,
        in the way of who makes the topic again.
        """
        try:
            with suppress(kafka.KafkaError, OSError, TimeoutError):
                while self in self._transport.subscriptions:
                    async with asyncio.timeout(HANDOVER_SECONDS):  # aiokafka repeats some for ever
                        await self._transport.group(self._group, self._confirmed)
                        now = {one: tracker.committable() for one, tracker in self._trackers.items()}
                        if not (changes := dict(now.items() - self._confirmed.items())):
                            return
                        await self.consumer.commit(changes)
                        self._confirmed |= changes
                    await asyncio.sleep(PAUSE)
        except NoSuchQueue:
            self._leaving = asyncio.create_task(self.close())

    async def close(self) -> None:
        """Commit and leave the group: its other members get our partitions at once."""
        await asyncio.wait([self.commit_soon()], timeout=HANDOVER_SECONDS)
        self._transport.subscriptions.discard(self)
        await self.consumer.stop()


class Tracker:
    """Which messages of one partition are settled, as long as it is ours.

    A log remembers one offset for each reader: everything before it is done. So only what is settled without
    a gap may be committed. What is settled behind a gap is told by a note that is committed with the offset:
    the end of what is told, how many messages wait for their time, and what is unsettled.
    """

    def __init__(self, offset: int = 0, note: str = "") -> None:
        self.position = self.end = offset  # of what is read next, and of what we know of
        self.unsettled: dict[int, float] = {}  # of what was read, ascending, and when each is due
        self.delayed, self._gaps = 0, list[int]()
        with suppress(ValueError):
            self.end, self.delayed, *self._gaps = map(int, note.split())

    def read(self, records: Sequence[Any]) -> list[Any]:
        """Those that are not settled."""
        self.position = records[-1].offset + 1
        return [one for one in records if one.offset >= self.end or one.offset in self._gaps]

    def left(self) -> list[int]:
        """What is unsettled, ascending."""
        return [*self.unsettled, *(gap for gap in self._gaps if gap >= self.position)]

    def committable(self) -> tuple[int, str]:
        """The offset to commit, and the note to commit with it: what does not fit into that comes again."""
        *noted, end = [*self.left(), max(self.end, self.position)][: NOTED + 1]
        first = [*noted, end][0]
        delayed = sum(due > time.time() for due in self.unsettled.values())
        note = " ".join(map(str, (end, delayed, *noted)))
        return first, note if delayed or end - first > len(noted) else ""


def to_message(exchange: str, record: Any) -> Message:
    """The message of a record, whoever wrote it."""
    headers = {name: (text or b"").decode(errors="replace") for name, text in record.headers}
    id = f"{record.topic}/{record.partition}/{record.offset}"  # of a stranger's, always the same
    key = None if record.key is None else record.key.decode(errors="replace")
    return from_headers(exchange, record.value or b"", headers, id, max(record.timestamp, 0) / 1000, key)


def check(code: int, what: str) -> None:
    """Raise what an error code stands for, which aiokafka does not."""
    if code:
        raise kafka.for_code(code)(what)
