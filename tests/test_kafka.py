"""The kafka transport keeps the contract, and what is Kafka's own: partitions, rebalances, commits with notes."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
import trustme
from aiokafka.cluster import ClusterMetadata
from aiokafka.protocol.metadata import MetadataResponse_v5
from aiokafka.structs import TopicPartition
from cryptography.hazmat.primitives import serialization

from mqasync import BrokerLost, BrokerRefused, ConfigurationError, Message
from mqasync.config.settings import load_settings
from mqasync.transport import DEAD, Features, QueueStats, Transport
from mqasync.transports import kafka_backlog, load
from mqasync.transports.due_heap import DueHeap
from mqasync.transports.kafka_requests import BOOTSTRAP, Requests
from mqasync.transports.kafka_topics import Topics, own_topic
from mqasync.transports.offset_tracker import NOTE_BYTES, OffsetTracker, settled_in

from .brokers import free_port
from .conformance import Conformance, Open, message, nothing, numbers, receive
from .conftest import required
from .servers.kafka import Kafka, kafka
from .waiting import depth, until


def topics_of(transport: Transport) -> Topics:
    return transport._topics  # type: ignore[attr-defined, no-any-return]


def partitions_of(*subscriptions: Any) -> list[int]:
    """How many partitions each has, once the group is at rest; 0 while it is not."""
    return [len(one._assignment.trackers) if one._assignment.ours.is_set() else 0 for one in subscriptions]


def one_for_each_partition(count: int = 8) -> list[Message]:
    """Messages that go to different partitions, by their keys: of many keys a few meet in each."""
    return [Message(body=b"%d" % n, exchange="", key=str(n)) for n in range(count * 8)]


class TestKafka(Conformance):
    features = Features(durable=True, shared=True, counts_returns=False, keeps_keys_together=True, max_bytes=1_000_000)

    @pytest.fixture
    def url(self, kafka_server: Kafka) -> str:
        return kafka_server.url

    async def test_a_single_broker_is_warned_of(self, transport: Transport) -> None:
        assert "1 broker" in transport.warning
        assert "min.insync.replicas=2" in transport.warning

    async def test_it_is_connected_also_where_kafka_named_no_broker_at_first(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a Kafka whose first answer names no broker, as in the moment after it was frozen
        answers: list[Any] = []
        update = ClusterMetadata.update_metadata

        def empty_at_first(cluster: ClusterMetadata, metadata: Any) -> None:
            if not answers:
                metadata.brokers = []
            answers.append(metadata)
            update(cluster, metadata)

        monkeypatch.setattr(ClusterMetadata, "update_metadata", empty_at_first)
        transport: Any = load(url)
        try:
            # When it is opened, Then it asks again where it asked first, and keeps no connection for that
            await asyncio.wait_for(transport.open(), 5)
            client = transport._connection.producer.client
            assert client.cluster.brokers()
            assert BOOTSTRAP not in client._conns
            # And an answer without brokers does not make it forget those it knows
            metadata = MetadataResponse_v5(0, [], "id", -1, [])
            with monkeypatch.context() as answering:
                answering.setattr(Requests, "metadata", AsyncMock(return_value=metadata))
                assert not await client.force_metadata_update()
            assert client.cluster.brokers()
        finally:
            await transport.close()

    async def test_a_topic_is_made_with_the_options_of_its_exchange(self, url: str, exchange: str) -> None:
        transport = load(url, {exchange: {"partitions": 3, "retention.ms": 1000, "cleanup.policy": "delete"}})
        await transport.open()
        try:
            await transport.declare(exchange, "q")
            requests = topics_of(transport)._requests
            assert len(await requests.leaders([exchange])) == 3
            assert len(await requests.leaders([own_topic(exchange, "q")])) == 3
        finally:
            await transport.close()

    async def test_a_topic_config_that_kafka_does_not_know_is_refused(self, url: str, exchange: str) -> None:
        transport = load(url, {exchange: {"no.such.config": 1}})
        await transport.open()
        try:
            with pytest.raises(BrokerRefused, match=r"no\.such\.config"):
                await transport.declare(exchange, "q")
        finally:
            await transport.close()

    async def test_a_queue_that_expires_works_like_any_other_and_is_gone_with_its_messages_when_nobody_consumes_it(
        self, connect: Open, transport: Transport, exchange: str
    ) -> None:
        """Kafka lets neither a topic nor a group expire that soon: it works like any other, and its topic is small."""
        await transport.declare(exchange, "tap", expires=1.0)
        other = await connect()
        tap = await other.subscribe(exchange, "tap", 10)
        await asyncio.sleep(1.5)
        await transport.publish(exchange, [message(1)])
        await tap.ack(await receive(tap, 1))
        await other.close()
        await asyncio.sleep(1.5)
        await transport.publish(exchange, [message(2)])
        assert await transport.stats(exchange, "tap") == QueueStats(1, consumers=0)
        assert len(await topics_of(transport)._requests.leaders([own_topic(exchange, "tap")])) == 1
        await transport.delete(exchange, "tap")
        assert await transport.stats(exchange, "tap") is None

    async def test_a_queue_that_somebody_else_deletes_is_lost_for_its_consumers_and_does_not_come_back(
        self, connect: Open, transport: Transport, exchange: str
    ) -> None:
        # Given a consumer on another connection, which has written to the queue's own topic as well
        await transport.declare(exchange, "q")
        other: Any = await connect()
        subscription = await other.subscribe(exchange, "q", 100)
        await transport.publish(exchange, one_for_each_partition())
        first, *held = await receive(subscription, 64)
        await subscription.retry(first, 0.0)
        # When the queue is deleted, while it goes on settling
        await transport.delete(exchange, "q")
        with pytest.raises(BrokerLost):
            for delivery in held:
                await subscription.ack([delivery])
                await subscription.receive(1, 0.1)
        # Then neither its commits nor its looking for topics make anything of it again
        await other._connection.producer.client.force_metadata_update()
        assert await transport.stats(exchange, "q") is None
        requests = topics_of(transport)._requests
        assert not await requests.leaders([own_topic(exchange, "q")])
        assert await requests.committed(f"{exchange}.q") == {}
        # And it can be made again, for what comes from now on
        await transport.declare(exchange, "q")
        await transport.publish(exchange, [message(1)])
        await other.send(exchange, "q", [message(2)])
        again = await transport.subscribe(exchange, "q", 10)
        assert sorted(numbers(await receive(again, 2))) == [1, 2]

    async def test_groups_and_topics_of_others_are_not_listed(self, transport: Transport, exchange: str) -> None:
        requests = topics_of(transport)._requests
        await requests.create(f"{exchange}.q", 1, 1, {})
        await requests.create(f"{exchange}.alone.retry", 1, 1, {})
        await requests.commit(f"{exchange}.q", {TopicPartition(f"{exchange}.q", 0): 0})
        assert [queue for queue in await transport.queues() or [] if queue[0] == exchange] == []

    async def test_names_that_differ_in_dot_and_underscore_alone_are_refused_with_the_reason(
        self, transport: Transport, exchange: str
    ) -> None:
        await transport.declare(f"{exchange}.a", "q")
        with pytest.raises(BrokerRefused, match="collides"):
            await transport.declare(f"{exchange}_a", "q")

    async def test_looking_for_a_topic_does_not_make_it(self, transport: Transport, exchange: str) -> None:
        assert not await topics_of(transport).exists(exchange)
        await asyncio.sleep(0.2)
        assert not await topics_of(transport).exists(exchange)

    async def test_a_queue_that_nobody_declared_is_lost(self, transport: Transport, exchange: str) -> None:
        for using in (
            transport.send(exchange, "q", [message(1)]),
            transport.subscribe(exchange, "q", 1),
        ):
            with pytest.raises(BrokerLost, match="no queue of 'q'"):
                await using

    async def test_messages_of_one_key_stay_in_order_whoever_consumes(
        self, connect: Open, transport: Transport, exchange: str
    ) -> None:
        await transport.declare(exchange, "q")
        consumers = [await (await connect()).subscribe(exchange, "q", 100) for _ in range(2)]
        sent = [Message(body=b"%d" % n, exchange=exchange, key=str(n % 20)) for n in range(200)]
        for start in range(0, 200, 10):
            await transport.publish(exchange, sent[start : start + 10])
        got: list[dict[str, list[int]]] = [{}, {}]
        while sum(len(many) for keys in got for many in keys.values()) < 200:
            for consumer, keys in zip(consumers, got, strict=True):
                deliveries = await consumer.receive(100, 0.1)
                for delivery in deliveries:
                    keys.setdefault(str(delivery.message.key), []).append(int(delivery.message.body))
                await consumer.ack(deliveries)
        assert not got[0].keys() & got[1].keys(), "one key, one consumer"
        for keys in got:
            for key, many in keys.items():
                assert many == list(range(int(key), 200, 20))

    async def test_what_stays_in_hand_in_a_rebalance_is_settled_and_what_moves_is_not(
        self, connect: Open, transport: Transport, exchange: str
    ) -> None:
        # Given a consumer that has messages of all partitions in hand
        await transport.declare(exchange, "q")
        first = await transport.subscribe(exchange, "q", 100)
        await transport.publish(exchange, one_for_each_partition())
        held = await receive(first, 64)
        # When another one joins, and takes half of the partitions
        second = await (await connect()).subscribe(exchange, "q", 100)
        await until(lambda: partitions_of(first, second) == [8, 8], "both have half of both topics")
        # Then it gets what is in hand there, and the first one's settlements count for its own half alone
        moved: list[int] = []
        while len(moved) < 64:
            some = numbers(await second.receive(100, 1.0))
            if not some:
                break
            moved += some
        assert 0 < len(moved) < 64
        await nothing(first)
        await first.ack(held)
        await until_depth(transport, exchange, len(moved))

    async def test_a_stale_retry_sends_nothing(self, connect: Open, transport: Transport, exchange: str) -> None:
        await transport.declare(exchange, "q")
        first = await transport.subscribe(exchange, "q", 100)
        await transport.publish(exchange, one_for_each_partition())
        held = {int(delivery.message.body): delivery for delivery in await receive(first, 64)}
        second = await (await connect()).subscribe(exchange, "q", 100)
        (stolen, *_) = await second.receive(100, 10.0)
        await first.retry(held[int(stolen.message.body)], 0.0)
        await first.release([held[int(stolen.message.body)]])
        assert await depth(transport, exchange, "q") == 64

    async def test_one_delayed_message_does_not_make_thousands_come_again(
        self, connect: Open, transport: Transport, exchange: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kafka_backlog, "TOO_FAR_BEHIND", 50)
        await transport.declare(exchange, "q")
        other = await connect()
        subscription = await other.subscribe(exchange, "q", 100)
        first = Message(body=b"0", exchange=exchange, key="k")
        started = time.monotonic()
        await transport.send(exchange, "q", [first], delay=6.0)
        # When many more go through the partition in which it waits
        for _ in range(4):
            await transport.send(exchange, "q", [Message(body=b"1", exchange=exchange, key="k") for _ in range(30)])
            await subscription.ack(await receive(subscription, 30))
        assert subscription._assignment.trackers  # type: ignore[attr-defined]
        behind = max(one.settled_behind_a_gap for one in subscription._assignment.trackers.values())  # type: ignore[attr-defined]
        assert behind <= 60, "it was written anew"
        # Then it still comes once, when it is due
        await until_depth(transport, exchange, 1)
        (delivery,) = await receive(subscription, 1)
        assert delivery.message == first
        assert time.monotonic() - started >= 5.9

    async def test_declaring_commits_the_beginning_of_each_topic_that_the_queue_reads(
        self, transport: Transport, exchange: str
    ) -> None:
        await transport.declare(exchange, "q")
        requests = topics_of(transport)._requests
        committed = await requests.committed(f"{exchange}.q")
        assert len(committed) == 16
        await transport.declare(exchange, "q" + DEAD, bound=False)
        assert {one.topic for one in await requests.committed(f"{exchange}.q.dead")} == {f"{exchange}.q.dead.retry"}


async def until_depth(transport: Transport, exchange: str, wanted: int) -> None:
    """Commits are told a moment later."""
    deadline = time.monotonic() + 10
    while (there := await depth(transport, exchange, "q")) != wanted:
        assert time.monotonic() < deadline, f"{there} are in the queue, not {wanted}"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("kafka://", "'' is not host:port"),
        ("kafka://h:0", "'h:0' is not host:port"),
        ("kafka://h:1,h:x", "'h:x' is not host:port"),
        ("kafka://h:99999", "'h:99999' is not host:port"),
        ("kafka://h/topic", "no path, such as '/topic'"),
        ("kafka://h?lease=3", "'lease' cannot be set in a Kafka URL; there are: session, mechanism"),
        ("kafka://h?session=0.5", "session is '0.5'; it takes a number of seconds from 1 to 1800"),
        ("kafka://h?session=x", "session is 'x'"),
        ("kafka://h?mechanism=PLAIN", "mechanism is for a user and password"),
        ("kafka://u:hidden@h?mechanism=GSSAPI", "mechanism is 'GSSAPI'; there are: PLAIN, SCRAM-SHA-256"),
        ("kafka://u@h", "a user has a password"),
        ("kafka://:hidden@h", "a user has a password"),
        ("kafka://h?cafile=x", "cafile is for kafkas://"),
        ("kafkas://h?keyfile=x", "certfile has to name that one"),
        ("kafkas://h?verify=no", "'verify' cannot be set"),
    ],
)
def test_a_wrong_url_is_refused_with_what_is_right(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(url)
    assert problem in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"partitions": 0}, "partitions is 0; it takes a whole number from 1 to 10000"),
        ({"partitions": True}, "partitions is True"),
        ({"replication": "3"}, "replication is '3'; it takes a whole number from 1 to 100"),
        ({"replicas": 3}, "'replicas' is no option: there are partitions, replication"),
        ({"retention.ms": [1]}, "retention.ms is [1]; a topic config is a text or a number"),
    ],
)
def test_a_wrong_option_is_refused_with_its_place(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("kafka://h", {"E": options})
    assert problem in str(caught.value)
    assert caught.value.keys == ("exchanges", "E", "options", next(iter(options)))


def test_several_servers_can_stand_in_config_yml(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("brokers:\n  main: kafka://u:hidden@h1:1,h2,[::1]:3?session=6\n")
    transport: Any = load(load_settings(str(tmp_path / "config.yml")).brokers["main"])
    assert transport._settings.servers == ["h1:1", "h2:9092", "[::1]:3"]
    assert "hidden" not in repr(transport._settings)


async def test_where_nobody_listens_the_broker_is_lost() -> None:
    transport = load(f"kafka://127.0.0.1:{free_port()}")
    with pytest.raises(BrokerLost, match="Connect call failed"):
        await transport.open()
    await transport.close()


# TLS and passwords

SECURE = """
listeners=PLAINTEXT://127.0.0.1:{{port}},SECURE://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{{controller}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SECURE://127.0.0.1:{secure}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={pem}
listener.name.secure.sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
    user_ann="p/w@1";
"""


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kafka, int, Path]]:
    """A Kafka that speaks TLS to those who know a password, the port for that, and its authority."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    server = authority.issue_cert("127.0.0.1")
    key = serialization.load_pem_private_key(server.private_key_pem.bytes(), None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    parts = [key.private_bytes(*form), *(one.bytes() for one in server.cert_chain_pems)]
    (directory / "server.pem").write_bytes(b"".join(parts))
    port = free_port()
    with required(kafka(SECURE.format(secure=port, pem=directory / "server.pem"))) as running:
        yield running, port, directory / "ca.pem"


async def test_tls_and_a_password_let_messages_through(secure: tuple[Kafka, int, Path]) -> None:
    _, port, authority = secure
    transport = load(f"kafkas://ann:p%2Fw%401@127.0.0.1:{port}?session=3&cafile={authority}")
    await transport.open()
    try:
        await transport.declare("E", "q")
        await transport.publish("E", [message(1)])
        assert numbers(await receive(await transport.subscribe("E", "q", 10), 1)) == [1]
    finally:
        await transport.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("kafkas://ann:wrong@127.0.0.1:{port}?cafile={authority}", "SaslAuthenticationFailed"),
        ("kafkas://ann:p%2Fw%401@127.0.0.1:{port}", "its certificate is not trusted"),
        ("kafkas://ann:p%2Fw%401@localhost:{port}?cafile={authority}", "its certificate is not trusted"),
    ],
)
async def test_who_is_not_let_in_is_told_why(secure: tuple[Kafka, int, Path], url: str, problem: str) -> None:
    _, port, authority = secure
    transport = load(url.format(port=port, authority=authority))
    with pytest.raises(BrokerRefused, match=problem) as caught:
        await transport.open()
    await transport.close()
    assert "p/w@1" not in str(caught.value)
    assert "wrong" not in str(caught.value)


# What needs no server


def test_a_tracker_commits_no_gap_and_its_note_tells_the_next_one_exactly_what_is_settled() -> None:
    chance = random.Random(5)
    for _ in range(300):
        start = chance.randint(0, 50)
        offsets = sorted(chance.sample(range(start, start + 60), 30))  # a log can have gaps of its own
        tracker = OffsetTracker(start)
        assert all(tracker.read(offset) for offset in offsets)
        settled = set(chance.sample(offsets, chance.randint(0, 30)))
        for offset in settled:
            assert tracker.settle(offset)
            assert not tracker.settle(offset)
        offset, note = tracker.committable()
        left = [offset for offset in offsets if offset not in settled]
        assert offset == (left[0] if left else offsets[-1] + 1)
        after = OffsetTracker(offset, note)
        again = [one for one in range(offset, offsets[-1] + 5) if after.read(one)]
        assert [one for one in again if one in offsets] == left
        assert settled_in(note) + len(left) <= offsets[-1] + 1 - offset
        for one in again:
            after.settle(one)
        assert after.committable() == (offsets[-1] + 5, "") or not again


def test_a_tracker_reads_on_where_it_was_and_forgets_what_the_log_lost() -> None:
    tracker = OffsetTracker(10, "mqasync 2 3 1 4")
    assert tracker.position == 10
    assert [offset for offset in range(10, 22) if tracker.read(offset)] == [10, 11, 15, 20, 21]
    assert tracker.position == 22
    tracker = OffsetTracker(10, "mqasync 2 3 1 4")
    assert tracker.read(15)
    assert tracker.committable() == (15, "mqasync 1 4")


@pytest.mark.parametrize("note", ["", "somebody's", "mqasync", "mqasync 1", "mqasync x y", "mqasync -1 5", "\0"])
def test_a_strangers_note_says_nothing(note: str) -> None:
    assert OffsetTracker(7, note).position == 7
    assert settled_in(note) == 0


def test_a_note_has_an_end_and_what_is_not_in_it_comes_again() -> None:
    tracker = OffsetTracker()
    for offset in range(10_000):
        tracker.read(offset)
    for offset in range(1, 10_000, 2):
        tracker.settle(offset)
    offset, note = tracker.committable()
    assert offset == 0
    assert NOTE_BYTES - 20 < len(note) <= NOTE_BYTES
    after = OffsetTracker(offset, note)
    again = [one for one in range(10_000) if after.read(one)]
    assert set(range(0, 10_000, 2)) <= set(again)
    assert len(again) < 10_000 - 900


def test_a_heap_gives_what_is_due_first_and_equals_in_their_order() -> None:
    heap: DueHeap[str] = DueHeap()
    for due, item in ((3.0, "c"), (1.0, "a"), (3.0, "d"), (2.0, "b"), (9.0, "x")):
        heap.push(due, item)
    assert heap.take(lambda item: item == "x") == [(9.0, "x")]
    assert heap.next_due == 1.0
    assert [heap.pop() for _ in range(len(heap))] == [(1.0, "a"), (2.0, "b"), (3.0, "c"), (3.0, "d")]
    assert heap.next_due == float("inf")
