"""The kafka transport keeps the contract, and what is Kafka's own: partitions, rebalances, commits with notes."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from mqasync import BrokerLost, BrokerRefused, ConfigurationError, Message, consumer
from mqasync.brokers.broker import Brokers
from mqasync.brokers.connection import Connection, load
from mqasync.config.settings import QueueSettings, Settings
from mqasync.core.channel import Channel
from mqasync.errors import BrokerBusy, NoSuchQueue
from mqasync.message import new_id
from mqasync.transport import Features
from mqasync.transports import kafka as transport_module
from mqasync.transports.kafka import NOTED, Tracker

from .brokers import free_port
from .conformance import Conformance, Open, message, nothing, numbers, receive, retry
from .servers.kafka import Kafka
from .waiting import depth, until
from .working import working


@pytest.fixture
async def admin(kafka_server: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    """Somebody else, who looks and deletes."""
    client = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{kafka_server.port}")
    await client.start()
    yield client
    await client.close()


def one_for_each_partition(count: int = 8) -> list[Message]:
    """Messages that go to different partitions, by their keys: of many keys a few meet in each."""
    return [Message(body=b"%d" % n, exchange="", key=str(n)) for n in range(count * 8)]


async def test_a_topic_and_a_group_that_exist_are_used_and_the_group_goes_on_where_it_was(
    kafka_server: Kafka, admin: AIOKafkaAdminClient, exchange: str
) -> None:
    # Given a topic with two messages of somebody else's, of which a group has read one
    group = f"legacy-{exchange}"
    await admin.create_topics([NewTopic(exchange, 1, 1)])
    servers = f"127.0.0.1:{kafka_server.port}"
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for body in (b"1", b"2"):
            await producer.send_and_wait(exchange, body)
    reader = AIOKafkaConsumer(bootstrap_servers=servers, group_id=group, enable_auto_commit=False)
    await reader.start()
    partition = TopicPartition(exchange, 0)
    reader.assign([partition])
    await reader.commit({partition: 1})
    await reader.stop()
    queues = {f"{exchange}/q": QueueSettings(queue=group)}
    brokers = Brokers(Settings(brokers={"main": kafka_server.url}, queues=queues))
    got: list[int] = []

    @consumer(exchange=exchange, id="q")
    async def handler(body: int) -> None:
        got.append(body)

    # When it is consumed in that group, then the second is handled, and what comes after it
    async with working(brokers, handler) as (channel,):
        await until(lambda: got == [2], "what the group has not read")
        await brokers.publish(Message(body=b"3", exchange=exchange))
        await until(lambda: channel.counts.handled == 2 and not channel.held, "what comes")
    await brokers.close()
    assert got == [2, 3]
    assert len((await admin.describe_topics([exchange]))[0]["partitions"]) == 1
    assert (await admin.list_consumer_group_offsets(group))[partition].offset == 3


class TestKafka(Conformance):
    features = Features(durable=True, shared=True, counts_returns=False, keeps_keys_together=True, max_bytes=1_000_000)

    @pytest.fixture
    def url(self, kafka_server: Kafka) -> str:
        return kafka_server.url

    async def test_a_single_broker_is_warned_of(self, transport: Connection) -> None:
        assert "1 broker" in transport.warning
        assert "min.insync.replicas=2" in transport.warning

    async def test_a_topic_is_made_with_the_options_of_its_exchange_and_what_kafka_does_not_know_is_refused(
        self, url: str, exchange: str, admin: AIOKafkaAdminClient
    ) -> None:
        good = {"partitions": 3, "retention.ms": 1000, "unclean.leader.election.enable": True}
        async with opened(url, {exchange: good, "bad": {"no.such.config": 1}}) as transport:
            await transport.declare(exchange, "q")
            for topic in await admin.describe_topics([exchange, f"{exchange}.q.retry"]):
                assert len(topic["partitions"]) == 3
            with pytest.raises(BrokerRefused, match=r"no\.such\.config"):
                await transport.declare("bad", "q")

    async def test_a_queue_that_somebody_else_deletes_is_lost_for_its_consumers_and_does_not_come_back(
        self, connect: Open, transport: Connection, exchange: str, admin: AIOKafkaAdminClient
    ) -> None:
        # Given a consumer on another connection, which has written to the queue's own topic as well
        await transport.declare(exchange, "q")
        other = await connect()
        subscription = await other.subscribe(exchange, "q", 100)
        await transport.publish(exchange, one_for_each_partition())
        first, *held = await receive(subscription, 64)
        await retry(subscription, first, 0.0)
        # When the queue is deleted, while it goes on settling
        await transport.delete(exchange, "q")
        with pytest.raises(NoSuchQueue):
            for delivery in held:
                await subscription.ack([delivery])
                await subscription.receive(1, 0.1)
        # Then neither its commits nor its looking for topics make anything of it again
        assert await other.stats(exchange, "q") is None
        assert f"{exchange}.q.retry" not in await admin.list_topics()
        # And it can be made again, for what comes from now on
        await subscription.close()
        await declare_when_left(transport, exchange)
        await transport.publish(exchange, [message(1)])
        await other.send(exchange, "q", [message(2)])
        again = await transport.subscribe(exchange, "q", 10)
        assert sorted(numbers(await receive(again, 2))) == [1, 2]

    async def test_topics_of_others_are_not_listed(
        self, transport: Connection, exchange: str, admin: AIOKafkaAdminClient
    ) -> None:
        await admin.create_topics([NewTopic(name, 1, 1) for name in (f"{exchange}.q", f"{exchange}.retry")])
        assert [queue for queue in await transport.queues() or [] if queue[0] == exchange] == []

    async def test_names_that_differ_in_dot_and_underscore_alone_are_refused_with_the_reason(
        self, transport: Connection, exchange: str
    ) -> None:
        await transport.declare(f"{exchange}.a", "q")
        with pytest.raises(BrokerRefused, match="collides"):
            await transport.declare(f"{exchange}_a", "q")

    async def test_a_queue_that_nobody_declared_is_lost(self, transport: Connection, exchange: str) -> None:
        for using in (
            transport.send(exchange, "q", [message(1)]),
            transport.subscribe(exchange, "q", 1),
        ):
            with pytest.raises(BrokerLost, match="no queue"):
                await using

    async def test_messages_of_one_key_stay_in_order_whoever_consumes(
        self, connect: Open, transport: Connection, exchange: str
    ) -> None:
        await transport.declare(exchange, "q")
        consumers = [await (await connect()).subscribe(exchange, "q", 100) for _ in range(2)]
        sent = [Message(body=b"%d" % n, exchange=exchange, key=str(n % 20)) for n in range(200)]
        for start in range(0, 200, 10):
            await transport.publish(exchange, sent[start : start + 10])
        got: list[dict[str, list[int]]] = [{}, {}]
        while sum(len(many) for keys in got for many in keys.values()) < 200:
            for one, keys in zip(consumers, got, strict=True):
                deliveries = await one.receive(100, 0.1)
                for delivery in deliveries:
                    keys.setdefault(str(delivery.message.key), []).append(int(delivery.message.body))
                await one.ack(deliveries)
        assert not got[0].keys() & got[1].keys(), "one key, one consumer"
        for keys in got:
            for key, many in keys.items():
                assert many == list(range(int(key), 200, 20))

    async def test_what_is_published_together_keeps_its_order_in_however_many_batches(
        self, transport: Connection, exchange: str
    ) -> None:
        await transport.declare(exchange, "q")
        await transport.publish(exchange, [Message(body=b"%d " % n + bytes(9_000), exchange="") for n in range(200)])
        received = await receive(await transport.subscribe(exchange, "q", 200), 200)
        assert [int(delivery.message.body.split()[0]) for delivery in received] == list(range(200))

    async def test_what_stays_in_hand_in_a_rebalance_is_settled_and_what_moves_is_not(
        self, connect: Open, transport: Connection, exchange: str
    ) -> None:
        # Given a consumer that has messages of all partitions in hand
        await transport.declare(exchange, "q")
        first = await transport.subscribe(exchange, "q", 100)
        await transport.publish(exchange, one_for_each_partition())
        held = await receive(first, 64)
        # When another one joins, and takes half of the partitions
        second = await (await connect()).subscribe(exchange, "q", 100)
        # Then it gets what is in hand there, and the first one's settlements count for its own half alone
        moved: list[int] = []
        while some := numbers(await second.receive(100, 2.0)):
            moved += some
        assert 0 < len(moved) < 64
        await nothing(first)
        await first.ack(held)
        await until_depth(transport, exchange, len(moved))

    async def test_what_is_settled_behind_a_message_in_hand_does_not_come_again(
        self, connect: Open, transport: Connection, exchange: str
    ) -> None:
        # Given one message that takes long, and many behind it in its partition that are settled
        await transport.declare(exchange, "q")
        await transport.publish(exchange, [Message(body=b"%d" % n, exchange=exchange, key="k") for n in range(200)])
        other = await connect()
        (slow, *quick) = await receive(await other.subscribe(exchange, "q", 200), 200, limit=200)
        await slow.subscription.ack(quick)
        await until_depth(transport, exchange, 1)
        # When the consumer goes, Then it alone comes again
        await other.close()
        assert numbers(await receive(await transport.subscribe(exchange, "q", 200), 1)) == [0]

    async def test_what_a_consumer_knows_to_be_delayed_does_not_count_as_waiting(
        self, connect: Open, transport: Connection, exchange: str
    ) -> None:
        await transport.declare(exchange, "q")
        await transport.send(exchange, "q", [message(1), message(2)], delay=60.0)
        await transport.send(exchange, "q", [message(3)])
        subscription = await (await connect()).subscribe(exchange, "q", 10)
        await subscription.ack(await receive(subscription, 1))
        async with asyncio.timeout(20):
            while (stats := await transport.stats(exchange, "q")) and (stats.waiting, stats.delayed) != (0, 2):
                await nothing(subscription)

    async def test_a_forged_time_delays_nothing_for_long(
        self, transport: Connection, kafka_server: Kafka, exchange: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport_module, "LONGEST_DELAY", 0.5)
        await transport.declare(exchange, "q")
        async with AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{kafka_server.port}") as producer:
            for until in (b"nan", b"inf", b"9e99", b"-1", b"x", b"\xff", b"99999999999.9"):
                await producer.send_and_wait(exchange, b"1", headers=[("mqasync-due", until)])
        await receive(await transport.subscribe(exchange, "q", 10), 7)


@asynccontextmanager
async def opened(url: str, options: Any = None) -> AsyncIterator[Connection]:
    transport = load(url, options or {})
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def declare_when_left(transport: Connection, exchange: str) -> None:
    """Declare the queue as the core does: again, as long as those who consumed what was deleted are leaving."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await transport.declare(exchange, "q")
            except BrokerBusy:
                await asyncio.sleep(0.1)


async def until_depth(transport: Connection, exchange: str, wanted: int) -> None:
    """Commits are told a moment later."""
    deadline = time.monotonic() + 10
    while (there := await depth(transport, exchange, "q")) != wanted:
        assert time.monotonic() < deadline, f"{there} are in the queue, not {wanted}"
        await asyncio.sleep(0.02)


# What public bug reports showed


@asynccontextmanager
async def process(url: str, *handlers: Any) -> AsyncIterator[list[Channel]]:
    """The consumers of one process at work, with connections of its own."""
    brokers = Brokers(Settings(brokers={"main": url}))
    try:
        async with working(brokers, *handlers) as channels:
            yield channels
    finally:
        await brokers.close()


@pytest.mark.parametrize("again", [False, True], ids=["and stays away", "and is made again at once"])
@pytest.mark.parametrize("own", [False, True], ids=["of the exchange", "of the queue itself"])
async def test_a_topic_deleted_under_a_running_consumer_is_told_and_what_is_confirmed_from_then_on_is_handled(
    kafka_server: Kafka, admin: AIOKafkaAdminClient, again: bool, own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    exchange, handled = f"E{new_id()}", Counter[int]()

    @consumer(exchange=exchange, id="q")
    async def handler(body: int) -> None:
        handled[body] += 1
        await asyncio.sleep(0.05)

    async def publish(brokers: Brokers, numbers: range) -> None:
        await asyncio.gather(*(brokers.publish(Message(body=b"%d" % n, exchange=exchange)) for n in numbers))

    # Given a consumer that has handled something, and goes on
    publisher = Brokers(Settings(brokers={"main": kafka_server.url}))
    async with process(kafka_server.url, handler) as (channel,):
        await until(lambda: channel.consuming, "it consumes")
        await publish(publisher, range(100))
        await until(lambda: len(handled) > 50, "it is in the middle of its work")
        # When somebody deletes the topic, and perhaps makes it again with more in it than there was
        topic = f"{exchange}.q.retry" if own else exchange
        await admin.delete_topics([topic])
        if again:
            await asyncio.sleep(0.3)
            await admin.create_topics([NewTopic(topic, 8, 1)])
        await until(lambda: "the subscription is lost" in caplog.text, "it is told", 15)
        # Then what is confirmed from then on is handled, also by a process that joins
        await until(lambda: channel.consuming, "it consumes again", 15)
        await publish(publisher, range(1000, 1200))
        async with process(kafka_server.url, handler) as (joined,):
            await until(lambda: joined.consuming, "another one has joined")
            await publish(publisher, range(1200, 1400))
            await until(lambda: set(range(1000, 1400)) <= handled.keys(), "all of it is handled")
    await publisher.close()


async def test_in_a_rebalance_nothing_is_begun_that_is_no_longer_ours_and_only_what_was_running_comes_again(
    kafka_server: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "HANDOVER_SECONDS", 0.3)
    exchange, begun = f"E{new_id()}", Counter[int]()

    @asynccontextmanager
    async def one_more() -> AsyncIterator[None]:
        """A process that handles batches, each longer than a rebalance waits for it."""

        @consumer(exchange=exchange, id="q", batch_size=20, batch_wait=0.1)
        async def handler(bodies: list[int]) -> None:
            begun.update(bodies)
            await asyncio.sleep(0.8)

        async with process(kafka_server.url, handler) as (channel,):
            await until(lambda: channel.counts.received > 0, "it consumes")
            yield

    # Given two processes with a batch under way and another one in hand
    publisher = Brokers(Settings(brokers={"main": kafka_server.url}))
    await publisher.route(exchange).call(lambda transport: transport.declare(exchange, "q"))
    sending = [Message(body=b"%d" % n, exchange=exchange, key=str(n)) for n in range(600)]
    await asyncio.gather(*map(publisher.publish, sending))
    async with one_more(), one_more():
        # When a third one comes and goes, and comes and goes
        for _ in range(2):
            async with one_more():
                await asyncio.sleep(1.5)
            await asyncio.sleep(1.0)
        # Then nothing is lost
        await until(lambda: len(begun) == 600, "all of it is handled", 60)
    await publisher.close()
    # And what came again was running in one of 5 rebalances: nothing was begun by who did not have its partition
    assert sum(begun.values()) - 600 <= 5 * 3 * 20


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"partitions": 0}, "partitions is 0; it takes a whole number from 1 to 10,000"),
        ({"partitions": True}, "partitions is True"),
        ({"replication": "x"}, "replication is 'x'; it takes a whole number from 1 to 100"),
        ({"replicas": 3}, "unknown option 'replicas'; valid options: partitions, replication"),
        ({"retention.ms": [1]}, "retention.ms is [1]; it takes text"),
    ],
)
def test_a_wrong_option_is_refused_with_its_place(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("kafka://h", {"E": options})
    assert problem in str(caught.value)
    assert caught.value.keys == ("exchanges", "E", "options", next(iter(options)))


async def test_where_nobody_listens_the_broker_is_lost() -> None:
    transport = load(f"kafka://127.0.0.1:{free_port()}")
    with pytest.raises(BrokerLost, match="Connect call failed"):
        await transport.open()
    await transport.close()


# What needs no server


def test_a_tracker_commits_no_gap_and_its_note_tells_what_is_settled_as_far_as_there_is_room() -> None:
    chance = random.Random(5)
    for _ in range(300):
        # Given a log, which can have gaps of its own, of which something is settled
        start, size = chance.choice([0, 50, 10**12]), chance.choice([60, 600])
        log = [SimpleNamespace(offset=start + n) for n in sorted(chance.sample(range(size), size // 2))]
        tracker = Tracker(start)
        assert tracker.read(log) == log
        tracker.unsettled = {one.offset: 0.0 for one in log if chance.random() < 0.8}
        left = list(tracker.unsettled)
        # When that is committed
        offset, note = tracker.committable()
        # Then the next one reads what is not settled, and what the note had no room for
        assert offset == (left[0] if left else log[-1].offset + 1)
        assert len(note) < 4096
        after = Tracker(offset, note)
        again = [one.offset for one in after.read([one for one in log if one.offset >= offset])]
        assert again[:NOTED] == left[:NOTED]
        assert set(left) <= set(again)
        assert again == left or len(left) > NOTED
        assert after.position == log[-1].offset + 1


@pytest.mark.parametrize("note", ["", "somebody's", "mqasync", "1 x", "\0"])
def test_a_strangers_note_says_nothing(note: str) -> None:
    assert Tracker(7, note).committable() == (7, "")
