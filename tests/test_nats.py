"""The nats transport keeps the contract, and says what is wrong with a URL, its options and the server."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import nats
import pytest
from nats.aio.client import Client

from mqasync import BrokerLost, BrokerRefused, Message, Unroutable
from mqasync.brokers.connection import Connection, load
from mqasync.brokers.inbox import Inbox
from mqasync.errors import BrokerBusy
from mqasync.message import new_id
from mqasync.transport import DEAD, Features
from mqasync.transports import nats as transport_module
from mqasync.transports.nats import names, subject

from .conformance import Conformance, message, nothing, numbers, receive, retry
from .conftest import Connect, required
from .servers.nats import NATS, running_nats
from .waiting import PATIENCE, depth


async def refused(url: str, problem: str) -> None:
    """It is refused so, and closed before this returns."""
    transport = load(url)
    with pytest.raises(BrokerRefused, match=problem):
        await transport.open()
    await transport.close()


@pytest.fixture
def url(nats_server: NATS, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(transport_module, "TEMPORARY_SECONDS", 2.0)
    return f"{nats_server.url}?lease=2"


class TestNATS(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=(1024 - 128) * 1024)


async def test_it_warns_that_jetstream_does_not_sync_until_the_url_says_that_it_does(
    nats_server: NATS, connect: Connect
) -> None:
    assert "sync_interval: always" in (await connect(nats_server.url)).warning
    assert (await connect(f"{nats_server.url}?sync=always")).warning == ""


async def test_options_are_those_of_the_stream_and_other_ones_later_are_refused(
    nats_server: NATS, connect: Connect, exchange: str
) -> None:
    transport = await connect(nats_server.url, {exchange: {"max_msgs": 2, "max_age": 3600, "compression": "s2"}})
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(1), message(2)])
    with pytest.raises(BrokerBusy, match="maximum messages exceeded"):
        await transport.publish(exchange, [message(3)])
    assert await depth(transport, exchange, "q") == 2, "what is full drops nothing"
    other = await connect(nats_server.url, {exchange: {"max_msgs": 3}})
    with pytest.raises(BrokerRefused, match="max_msgs 2 instead of 3"):
        await other.declare(exchange, "q")


async def test_a_retry_into_a_full_stream_waits_until_there_is_room(
    nats_server: NATS, connect: Connect, stranger: Client, exchange: str
) -> None:
    transport = await connect(nats_server.url, {exchange: {"max_msgs": 1}})
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(1)])
    subscription = await transport.subscribe(exchange, "q", 10)
    (delivery,) = await receive(subscription, 1)
    retrying = asyncio.create_task(retry(subscription, delivery, 0.0))
    await nothing(subscription)
    config = (await stranger.jsm().stream_info(names(exchange)[0])).config
    await stranger.jsm().update_stream(config, max_msgs=2)
    await retrying
    (again,) = await receive(subscription, 1)
    assert again.message.attempt == 2


async def test_what_the_loser_of_a_delivery_does_loses_nothing(
    nats_server: NATS, connect: Connect, exchange: str
) -> None:
    """Softened: a settlement after the lease has ended may make a duplicate; see the contract in DESIGN.md."""
    transport, other = await connect(f"{nats_server.url}?lease=1"), await connect(nats_server.url)
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(1)])
    loser = await transport.subscribe(exchange, "q", 10)
    lost = await receive(loser, 1)
    owner = await other.subscribe(exchange, "q", 10)
    await receive(owner, 1)  # when the lease has ended
    await loser.extend(lost)
    await loser.release(lost)
    assert numbers(await receive(owner, 1)) == [1]


async def test_what_was_put_back_because_it_was_too_early_has_not_returned(
    exchange: str, transport: Connection, queue: Inbox
) -> None:
    await transport.send(exchange, "q", [message(1)], delay=0.5)
    for returned in (0, 1):
        (delivery,) = await receive(queue, 1)
        assert delivery.returned == returned
        await queue.release([delivery])


async def test_a_queue_has_one_lease_which_who_declares_it_last_sets(
    nats_server: NATS, connect: Connect, exchange: str
) -> None:
    first = await connect(f"{nats_server.url}?lease=7")
    for query, lease in (("?lease=7", 7.0), ("", 30.0)):
        await (await connect(nats_server.url + query)).declare(exchange, "q")
        assert (await first.subscribe(exchange, "q", 10)).lease == lease


async def test_a_queue_expires_not_before_its_busy_consumer_and_its_messages_leave_the_disk(
    nats_server: NATS, connect: Connect, stranger: Client, monkeypatch: pytest.MonkeyPatch, exchange: str
) -> None:
    monkeypatch.setattr(transport_module, "TEMPORARY_SECONDS", 0.5)
    transport, other = await connect(f"{nats_server.url}?lease=2"), await connect(nats_server.url)
    await transport.declare(exchange, "q", temporary=True)
    await transport.declare(exchange, "other")
    await transport.publish(exchange, [message(1), message(2)])
    # Given a consumer that asks for nothing, since it is busy
    subscription = await other.subscribe(exchange, "q", 1)
    held = await receive(subscription, 1)
    for _ in range(4):
        await asyncio.sleep(0.5)
        await subscription.extend(held)
    assert await depth(transport, exchange, "q") == 2
    # When it is gone
    await other.close()
    deadline = time.monotonic() + PATIENCE
    while await transport.stats(exchange, "q"):
        assert time.monotonic() < deadline, "it has expired"
        await asyncio.sleep(0.05)
    # Then what is left is for the other queue
    subscription = await transport.subscribe(exchange, "other", 10)
    await subscription.ack(await receive(subscription, 2))
    await nothing(subscription)
    assert (await stranger.jsm().stream_info(names(exchange)[0])).state.messages == 0


async def test_names_with_dots_and_without_are_different_queues(transport: Connection) -> None:
    base = new_id()
    exchanges = [f"{base}.x", f"{base}-x", f"{base}_x", f"{base}..x"]
    for exchange in exchanges:
        await transport.declare(exchange, "q")
    for n, exchange in enumerate(exchanges):
        await transport.publish(exchange, [message(n)])
    for n, exchange in enumerate(exchanges):
        assert numbers(await receive(await transport.subscribe(exchange, "q", 10), 1)) == [n]


@pytest.fixture
async def stranger(nats_server: NATS) -> AsyncIterator[Client]:
    """A client that knows nothing of mqasync."""
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


async def test_a_strangers_message_arrives_with_an_id_that_stays(stranger: Client, exchange: str, queue: Inbox) -> None:
    evil = {"mqasync-attempt": "-5", "mqasync-time": "nan", "mqasync-due": "x", "mqasync-packed": "%", "a": "b"}
    evil |= {"mqasync-before": "-1", "Status": "503", "Description": "no"}
    await stranger.jetstream().publish(subject(exchange), b"1", headers=evil)
    await stranger.jetstream().publish(subject(exchange), b"2", headers={"Nats-Msg-Id": "mine"})
    first = await receive(queue, 2)
    assert (first[0].message.headers, first[0].message.attempt) == ({"a": "b"}, 1)
    assert first[1].message.id == "mine"
    await queue.release(first)
    assert {again.message.id for again in await receive(queue, 2)} == {each.message.id for each in first}


@pytest.mark.parametrize(
    "headers", [b"X", b"NATS/1.0", b"NATS/1.0 \xff\xff\xff \xff\r\n\r\n", b"NATS/1.0\r\n\xff: \xff\r\n"]
)
async def test_headers_that_no_client_writes_do_not_end_the_connection(
    headers: bytes, nats_server: NATS, exchange: str, transport: Connection, queue: Inbox
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
    size = b"%d %d" % (len(headers), len(headers) + 1)
    writer.write(b'CONNECT {"headers": true, "verbose": false}\r\n')
    writer.write(b"HPUB %s %s\r\n%s1\r\nPING\r\n" % (subject(exchange).encode(), size, headers))
    await reader.readuntil(b"PONG\r\n")
    writer.close()
    (delivery,) = await receive(queue, 1)
    assert delivery.message.body == b"1"
    await queue.ack([delivery])
    await transport.publish(exchange, [message(2)])
    assert numbers(await receive(queue, 1)) == [2]


async def test_headers_that_would_command_jetstream_are_only_carried(
    exchange: str, transport: Connection, queue: Inbox
) -> None:
    headers = {"Nats-Expected-Stream": "other", "nats-rollup": "all", "Status": "503", " a ": " b ", "": "c"}
    sent = Message(body=b"", exchange=exchange, headers=headers)
    await transport.publish(exchange, [sent, sent])
    assert [delivery.message for delivery in await receive(queue, 2)] == [sent, sent]


async def test_a_deleted_consumer_loses_the_subscription_and_makes_the_exchange_unroutable(
    nats_server: NATS, connect: Connect, stranger: Client, exchange: str, transport: Connection
) -> None:
    await transport.declare(exchange, "q")
    await transport.declare(exchange, "q" + DEAD, bound=False)
    subscription = await transport.subscribe(exchange, "q", 10)
    receiving = asyncio.create_task(subscription.receive(10, 20.0))
    await asyncio.sleep(0)
    await stranger.jsm().delete_consumer(names(exchange)[0], "q")
    with pytest.raises(BrokerLost):
        await receiving
    # And who has not seen it within 10 s is told
    other = await connect(nats_server.url)
    with pytest.raises(BrokerLost):
        await other.send(exchange, "q", [message(1)])
    with pytest.raises(Unroutable):
        await other.publish(exchange, [message(1)])
    # And it can be declared again, even if the stream was deleted as well
    await stranger.jsm().delete_stream(names(exchange)[0])
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(2)])
    assert numbers(await receive(await transport.subscribe(exchange, "q", 10), 1)) == [2]


async def test_a_strangers_stream_is_refused(stranger: Client, exchange: str, transport: Connection) -> None:
    await stranger.jsm().add_stream(name=names(exchange)[0], subjects=[exchange])
    with pytest.raises(BrokerRefused, match="exists with retention 'limits' instead of 'interest'"):
        await transport.declare(exchange, "q")


async def test_what_no_consumer_needs_any_more_leaves_the_disk(
    stranger: Client, exchange: str, transport: Connection
) -> None:
    for id in ("one", "two"):
        await transport.declare(exchange, id)
    await transport.publish(exchange, [message(n) for n in range(20)])
    for id, left in (("one", 20), ("two", 0)):
        subscription = await transport.subscribe(exchange, id, 100)
        await subscription.ack(await receive(subscription, 20))
        assert (await stranger.jsm().stream_info(names(exchange)[0])).state.messages == left
        await nothing(subscription)


# How the server is set up


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NATS]:
    """A server with a password, permissions and a small max_payload."""
    settings = """
        max_payload: 300KB
        authorization { users: [
            {user: "us/er", password: "s@cret"},
            {user: reader, password: other, permissions: {publish: {deny: "mqasync.Forbidden"}}}
        ] }
    """
    with required(running_nats(settings)) as server:
        yield server


def at(server: NATS, credentials: str) -> str:
    return server.url.replace("://", f"://{credentials}@")


async def test_a_wrong_password_is_refused_and_not_told(locked: NATS, connect: Connect) -> None:
    await connect(at(locked, "us%2Fer:s%40cret"))
    for url in (at(locked, "us%2Fer:s%40crets"), f"{locked.url}?token=s%40cret", locked.url):
        with pytest.raises(BrokerRefused, match=r"(?i)authorization violation") as refusal:
            await connect(url)
        assert "cret" not in str(refusal.value)


async def test_a_token_opens_a_server_that_asks_for_one() -> None:
    with running_nats("authorization { token: t0/ken }") as server:
        transport = load(f"{server.url}?token=t0%2Fken")
        await transport.open()
        await transport.close()
        await refused(f"{server.url}?token=other", r"(?i)authorization violation")


async def test_what_is_not_permitted_is_refused(
    locked: NATS, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "ANSWER_SECONDS", 1.0)
    transport = await connect(at(locked, "reader:other"))
    await transport.declare("Forbidden", "q")
    with pytest.raises(BrokerRefused, match=r"(?i)permissions violation"):
        await transport.publish("Forbidden", [message(1)])


async def test_max_payload_of_the_server_is_the_limit(locked: NATS, connect: Connect) -> None:
    transport = await connect(at(locked, "us%2Fer:s%40cret"))
    assert transport.features.max_bytes == (300 - 128) * 1024
    await transport.declare("Large", "q")
    body, headers = b"x" * transport.features.max_bytes, {"x": "\n" * 64 * 1024}
    await transport.publish("Large", [Message(body=body, exchange="Large", headers=headers)])
    with pytest.raises(BrokerRefused, match="max_payload of the NATS server is 307,200"):
        await transport.publish("Large", [Message(body=body + body, exchange="Large")])
    (delivery,) = await receive(await transport.subscribe("Large", "q", 10), 1)
    assert (delivery.message.body, delivery.message.headers) == (body, headers)


async def test_a_server_that_is_too_old_is_refused_and_one_without_tls_hears_no_password() -> None:
    heard: list[bytes] = []
    gone = asyncio.Semaphore(0)

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version": "2.9.10", "headers": true, "max_payload": 1048576}\r\n')
        heard.append(await reader.read(1000))
        writer.write(b"PONG\r\n")
        while await reader.read(1000):
            pass
        writer.close()
        gone.release()

    async with await asyncio.start_server(old, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await refused(f"nats://user:secret@{address}", r"nats-server 2\.9\.10 is too old")
        await refused(f"natss://user:secret@{address}", "does not speak TLS")
        for _ in range(2):
            await gone.acquire()
    assert not any(b"secret" in text for text in heard)


@pytest.mark.parametrize("receives", [False, True])
async def test_who_publishes_or_receives_hears_at_once_that_the_server_has_gone(
    connect: Connect, receives: bool
) -> None:
    with running_nats() as server:
        transport = await connect(server.url)
        await transport.declare("E", "q")
        queue = await transport.subscribe("E", "q", 1)
        server.pause()
        waiting = asyncio.create_task(queue.receive(1, 20.0) if receives else transport.publish("E", [message(1)]))
        await asyncio.sleep(0)
        server.kill()
        async with asyncio.timeout(3):
            with pytest.raises(BrokerLost):
                await waiting


async def test_a_server_without_jetstream_is_refused() -> None:
    with running_nats(jetstream=None) as server:
        await refused(server.url, "nats-server -js")
