"""Apache Kafka through aiokafka: topics that are read by groups; no retrying, decoding or handling.

URL: kafka://user:password@host:port,host:port or kafkas:// for TLS, always verified; user and password
    are for SASL. After "?": session (seconds until a dead process's partitions go to others, default 10),
    mechanism (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER), cafile, certfile, keyfile. OAUTHBEARER takes no
    user, but tokenfile, which is read at each connect, or tokencommand, which is run and prints the token:
    kafkas://host?mechanism=OAUTHBEARER&tokencommand=get-token+--for+kafka. The command runs without a shell, for 5 s
    at most; what it prints is used for all connections of the next 5 s; its arguments are masked wherever the URL
    is shown. If a broker closes connections when their tokens expire (connections.max.reauth.ms), mqasync reconnects
    each time.
Options: by exchange, for topics that do not exist yet: partitions (default 8), replication (default 3, or
    as many as there are brokers) and topic configs such as {retention.ms: 1209600000}. `queue` of a consumer names its
    group, see docs/existing.md.
Delivery: written by an idempotent producer, and confirmed by all replicas in sync. An exchange is a topic of the
    same name. A queue is the consumer group "exchange.id" with its commits, and the topic "exchange.id.retry" for
    messages to this queue alone. A group commits the offset before which all messages are acknowledged, and with it
    a note of those acknowledged behind it. A process that dies is noticed after `session`. A process that joins or
    leaves makes the group rebalance, which waits up to 2 s for running handlers; messages whose handlers have not
    ended by then are redelivered if their partition moves. A deleted topic is created again as soon as all consumers
    of its queues have noticed, and is read from its beginning.
Order: within a partition; messages of one key share one.
Delay: by the wall clock; a delayed message waits in its topic and in its consumer's memory, and is written
    again every 10 minutes.
Dead letters: a queue like any other, "exchange.id.dead", whose topic is "exchange.id.dead.retry".
What it cannot do: share a queue between more consumers than it has partitions; count redeliveries after a crash;
    distinguish a topic without readers from one with a queue (a message is unroutable if its exchange has no topic,
    and that topic stays when its queues are deleted); distinguish delayed messages from waiting ones before a
    consumer has read them; distinguish queues from topics of other programs that are called "a.b.retry"; use two
    exchanges whose names differ only in . and _; keep messages longer than the topic's retention, or the position
    of a queue without consumers longer than offsets.retention.minutes (7 days each, unless set otherwise).
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
REPLY_MILLISECONDS = 9_000  # less than the core waits: a call that it cancels would leave a connection open
HANDOVER_SECONDS = 2.0  # how long a rebalance waits for running handlers, and then for our commit
PAUSE = 0.05  # seconds between two requests or commits: what is settled in it is committed together
LONGEST_DELAY = 600.0  # seconds until a waiting message is written again: retention must not delete it
WARNING = "a power cut can lose what {} broker(s) have confirmed: use 3, with min.insync.replicas=2"
READ = 256  # records that are taken from aiokafka together
NOTED = 250  # how many unsettled messages a note lists: Kafka accepts 4096 bytes
Committed = dict[TopicPartition, tuple[int, str]]
RETRIABLE = [error for error in vars(kafka).values() if getattr(error, "retriable", None) is True]


class KafkaTransport:
    """A producer, clients for queries and administration, and one consumer for each subscription."""

    features = Features(counts_returns=False, keeps_keys_together=True, max_bytes=1_000_000, max_delay=0, beside=True)
    errors = (
        (NoSuchQueue, [kafka.UnknownTopicOrPartitionError]),
        (NoSuchQueue, [kafka.ConsumerStoppedError], "a topic or its group's commits were deleted"),
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
            raise ConfigurationError(f"a kafka URL has no path; a user needs a password, and a mechanism both: {FORM}")
        if sum(map(bool, token)) != oauth or (oauth and user):
            raise ConfigurationError(
                f"mechanism={OAUTH} takes one of tokenfile and tokencommand, and no user; other mechanisms take neither"
            )
        self._arguments: dict[str, Any] = {
            "request_timeout_ms": REPLY_MILLISECONDS,
            "security_protocol": ("SASL_" if user or oauth else "") + ("SSL" if address.encrypted else "PLAINTEXT"),
            "sasl_mechanism": mechanism or "PLAIN",
            "sasl_plain_username": user,
            "sasl_plain_password": address.password,
            "sasl_oauth_token_provider": Tokens(*token),
        }
        # a name with a dot is one of Kafka's topic configs, which Kafka checks
        configs = {name: Key("") for given in options.values() for name in given if "." in name}
        self._options = check_options(options, TOPIC_KEYS | configs, "Kafka", ["queue"])
        self.subscriptions: set[KafkaSubscription] = set()
        self._stops: list[Any] = []
        self._turns, self._writing = count(), dict[tuple[str, int], asyncio.Lock]()

    async def open(self) -> None:
        """Connect, and ask how many brokers there are."""
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
        """A request without effect to one broker, or to all if it does not answer; and check the subscriptions."""
        for subscription in self.subscriptions:
            subscription.commit_soon()
        with suppress(kafka.KafkaError):
            await self._admin.describe_topics([])
            return
        await self._topics()

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Create missing topics, and commit the offsets at which the group begins to read each."""
        group = self._name(exchange, id)
        own = group + OWN
        wanted, new = {own, exchange} if bound else {own}, {own}
        while missing := wanted - await self._topics():
            await self._create(missing, exchange)
            new |= missing  # messages may have been published there immediately
        # ends first: if nothing is committed after that, another process that declares at the same time has not
        # returned before the ends were read, so that neither can make the other one miss a message
        starts = {one: 0 if one.topic in new else end for one, end in (await self._ends(wanted)).items()}
        with suppress(NoSuchQueue):
            read = {partition.topic for partition in (await self.group(group))[0]}
            starts = {one: 0 for one in starts if one.topic not in read}  # a topic of it was created again
        if existing(self._options, exchange, id):  # it continues where it was
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
        """Create the topics, unless another process was faster."""
        configs = {"max.message.bytes": str(MAX_BYTES)} | self._options.get(exchange, {})
        configs.pop("queues", None)
        number, copies = configs.pop("partitions", PARTITIONS), configs.pop("replication", self._replicas)
        # so that a confirmed message is on two machines
        safe = {"min.insync.replicas": "2"} if copies >= REPLICAS else {}
        new = [NewTopic(topic, number, copies, topic_configs=safe | configs) for topic in topics]
        for _, code, why in (await self._admin.create_topics(new)).topic_errors:
            check(code if code != kafka.TopicAlreadyExistsError.errno else 0, why)
        await asyncio.sleep(PAUSE)  # the brokers tell each other, not us

    async def _topics(self) -> set[str]:
        """The names of all topics. Asking for one by its name would create it, if the server is configured so."""
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
        check(told["error_code"], name)  # a coordinator that does not know yet looks like one without commits
        found: Committed = dict(await self._admin.list_consumer_group_offsets(name))
        if missing := {TopicPartition(name + OWN, 0), *read} - found.keys():
            raise NoSuchQueue(f"Kafka has no queue {name!r} that reads topic {min(missing).topic!r}")
        return found, len(told["members"])

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Write to the topic of that name; return when all replicas in sync have confirmed.

        Messages with a key go to the partition of that key, the others of one call stay together.
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
            # one batch waits at a time: of several, aiokafka counts the waiting times wrongly, and refuses them
            async with self._writing.setdefault((exchange, together), asyncio.Lock()):
                writing.append(await self._producer.send_batch(batch, exchange, partition=together))
        writing += [await self._producer.send(exchange, **record) for record in singly]
        await asyncio.gather(*writing)

    async def bound(self, exchange: str) -> bool:
        """True: publish itself raises Unroutable."""
        return True

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Write to the queue's own topic."""
        await self.publish(self._name(exchange, id) + OWN, messages)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> KafkaSubscription:
        """Begin to join the queue's group."""
        group, session = self._name(exchange, id), int(self._address.settings["session"] * 1000)
        committed, _ = await self.group(group)
        consumer = AIOKafkaConsumer(
            # dead members delay those that join
            **self._arguments | MEMBER | {"request_timeout_ms": REPLY_MILLISECONDS + session},
            group_id=group,
            # a key has the same partition number in both topics of a queue: so both go to one consumer
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=session,
            heartbeat_interval_ms=min(session // 5, 500),  # by its answer a member learns of a rebalance
            rebalance_timeout_ms=session + int(2000 * HANDOVER_SECONDS),
        )
        subscription = KafkaSubscription(self, consumer, exchange, group, committed)
        # by a pattern, since asking for a topic by its name would create it
        consumer.subscribe(pattern="|".join(re.escape(p.topic) + "$" for p in committed), listener=subscription)
        await consumer.start()
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count unsettled messages; delayed ones are known once a consumer has read them."""
        committed, members = await self.group(self._name(exchange, id))
        ends = await self._ends({partition.topic for partition in committed})
        trackers = [(Tracker(*committed.get(partition, ())), end) for partition, end in ends.items()]
        delayed = sum(tracker.delayed for tracker, _ in trackers)
        waiting = sum(len(tracker.left()) + max(0, end - tracker.end) for tracker, end in trackers)
        return QueueStats(max(0, waiting - delayed), delayed, members)

    async def queues(self) -> list[tuple[str, str]] | None:
        """All groups that have their own topic."""
        own = [topic.removesuffix(OWN) for topic in await self._topics() if topic.endswith(OWN)]
        return [queue for group in own if (queue := named(group))]

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the queue's own topic, and with it the group's commits, by which its consumers find out."""
        group = self._name(exchange, id)
        check((await self._admin.delete_topics([group + OWN])).topic_error_codes[0][1], group)
        while await self.group(group):  # noqa: ASYNC110
            await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        """Leave the groups and close everything; in an outage that goes on after this call was given up."""
        stops = [*(one.consumer.stop for one in self.subscriptions), *self._stops]
        await asyncio.shield(asyncio.gather(*(stop() for stop in stops), return_exceptions=True))


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a queue's group, and a tracker for each partition that the group has given it.

    aiokafka takes all partitions away for each rebalance. A tracker survives that if its partition comes
    back with our last commit: then no other member had it, and the messages in flight are still ours.
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
        """aiokafka: the group rebalances. No handler is begun now, and handlers that end soon are committed first."""
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
                self.consumer.seek(one, tracker.position)  # earlier messages are redelivered
            self._confirmed, self._ours = committed, True
        except Exception:
            self._leaving = asyncio.create_task(self.close())

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take messages that were read and are due; else read more. Those of a rebalance are read again."""
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
        """Keep unsettled messages until they are due."""
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
        """Commit what is settled, and check that the queue still exists."""
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        return self._committing

    async def _commit(self) -> None:
        """Commit until there is nothing new; what fails is committed the next time.

        If a topic was deleted its commits are gone: then our offsets mean nothing, and we leave the group, since our
        membership would hold up the consumer that creates the topic again.
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
        """Commit and leave the group: its other members immediately get our partitions."""
        await asyncio.wait([self.commit_soon()], timeout=HANDOVER_SECONDS)
        self._transport.subscriptions.discard(self)
        await self.consumer.stop()


class Tracker:
    """Which messages of one partition are settled, as long as it is ours.

    Kafka stores one offset for each group: everything before it is done. So the offset of the first unsettled
    message is committed. Settled messages behind it are in a note that is committed with the offset: the end of what
    the note covers, how many messages are delayed, and which ones are unsettled.
    """

    def __init__(self, offset: int = 0, note: str = "") -> None:
        self.position = self.end = offset  # of the next message to read, and of the end of the note
        self.unsettled: dict[int, float] = {}  # of the messages read, ascending, and when each is due
        self.delayed, self._gaps = 0, list[int]()
        with suppress(ValueError):
            self.end, self.delayed, *self._gaps = map(int, note.split())

    def read(self, records: Sequence[Any]) -> list[Any]:
        """The records that are not settled."""
        self.position = records[-1].offset + 1
        return [one for one in records if one.offset >= self.end or one.offset in self._gaps]

    def left(self) -> list[int]:
        """The unsettled offsets, ascending."""
        return [*self.unsettled, *(gap for gap in self._gaps if gap >= self.position)]

    def committable(self) -> tuple[int, str]:
        """The offset to commit, and the note with it: messages that do not fit into the note are redelivered."""
        *noted, end = [*self.left(), max(self.end, self.position)][: NOTED + 1]
        first = [*noted, end][0]
        delayed = sum(due > time.time() for due in self.unsettled.values())
        note = " ".join(map(str, (end, delayed, *noted)))
        return first, note if delayed or end - first > len(noted) else ""


def to_message(exchange: str, record: Any) -> Message:
    """The message of a record, whoever wrote it."""
    headers = {name: (text or b"").decode(errors="replace") for name, text in record.headers}
    id = f"{record.topic}/{record.partition}/{record.offset}"  # for a foreign message: always the same
    key = None if record.key is None else record.key.decode(errors="replace")
    return from_headers(exchange, record.value or b"", headers, id, max(record.timestamp, 0) / 1000, key)


def check(code: int, what: str) -> None:
    """Raise the exception for an error code, which aiokafka itself does not do."""
    if code:
        raise kafka.for_code(code)(what)
