"""The activemq transport keeps the contract, and what only ActiveMQ has."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import stompman

from mqasync import BrokerLost, BrokerRefused, Message, Unroutable
from mqasync.brokers.connection import Connection
from mqasync.brokers.inbox import Inbox
from mqasync.errors import BrokerBusy, NoSuchQueue
from mqasync.transport import Features, QueueStats
from mqasync.transports.activemq import take_frame

from .conformance import Conformance, Open, message, nothing, numbers, receive, retry
from .conftest import Connect, required
from .servers.activemq import STATISTICS, ActiveMQ, running_activemq
from .waiting import PATIENCE, depth, until

PASSWORD = "secret:word"
USERS = f"""<simpleAuthenticationPlugin anonymousAccessAllowed="false"><users>
    <authenticationUser username="u" password="{PASSWORD}" groups="g"/></users></simpleAuthenticationPlugin>
  <authorizationPlugin><map><authorizationMap><authorizationEntries>
    <authorizationEntry queue="ActiveMQ.&gt;" read="g" write="g" admin="g"/>
    <authorizationEntry queue="Delayed.&gt;" read="g" write="g" admin="g"/>
    <authorizationEntry queue="Consumer.q.VirtualTopic.allowed" read="g" write="g" admin="g"/>
    <authorizationEntry queue="Consumer.q.VirtualTopic.forbidden" read="g" write="g" admin="g"/>
    <authorizationEntry queue="Consumer.q.VirtualTopic.unreadable" read="nobody" write="g" admin="g"/>
    <authorizationEntry topic="ActiveMQ.&gt;" read="g" write="g" admin="g"/>
    <authorizationEntry topic="VirtualTopic.allowed" read="g" write="g" admin="g"/>
  </authorizationEntries></authorizationMap></map></authorizationPlugin>"""


@pytest.fixture
def url(activemq_server: ActiveMQ) -> str:
    return activemq_server.url


class TestActiveMQ(Conformance):
    features = Features(durable=True, shared=True, counts_returns=False, max_bytes=32 * 1024 * 1024)

    async def test_a_deleted_queue_is_gone_with_what_was_in_it_and_its_subscriptions_are_lost(
        self, transport: Connection, queue: Inbox, exchange: str
    ) -> None:
        """STOMP cannot delete a queue: all but the queue itself is gone."""
        await transport.declare(exchange, "other")
        other = await transport.subscribe(exchange, "other", 10)
        await transport.publish(exchange, [message(n) for n in range(300)])
        await transport.send(exchange, "q", [message(2)], delay=0.5)
        await queue.receive(10, PATIENCE)
        await transport.delete(exchange, "q")
        await transport.delete(exchange, "q")
        with pytest.raises(NoSuchQueue, match="was deleted"):
            for _ in range(300):  # what it had received already may come first
                await queue.ack(await queue.receive(10, PATIENCE))
        assert await transport.stats(exchange, "q") == QueueStats(waiting=0, delayed=0, consumers=0)
        assert len(await receive(other, 10, limit=10)) == 10
        await transport.declare(exchange, "q")
        await transport.publish(exchange, [message(3)])
        again = await transport.subscribe(exchange, "q", 10)
        assert numbers(await receive(again, 1)) == [3]
        await asyncio.sleep(0.6)
        await nothing(again)

    async def test_a_queue_that_expires_works_like_any_other_and_is_gone_with_its_messages_when_nobody_consumes_it(
        self, connect: Open, transport: Connection, exchange: str
    ) -> None:
        """It belongs to the connection that declared it, and ends with that: here nothing but a topic does."""
        other = await connect()
        await other.declare(exchange, "tap", temporary=True)
        await other.declare(exchange, "reply", bound=False, temporary=True)
        await transport.publish(exchange, [message(0)])
        await transport.send(exchange, "reply", [message(-1)])
        for _ in range(2):
            await other.declare(exchange, "tap", temporary=True)
        tap, reply = [await other.subscribe(exchange, id, 10) for id in ("tap", "reply")]
        for subscription, expected in ((tap, 0), (reply, -1)):
            (delivery,) = await receive(subscription, 1)
            assert int(delivery.message.body) == expected
            await retry(subscription, delivery, 0.5)
            (again,) = await receive(subscription, 1)
            assert (int(again.message.body), again.message.attempt) == (expected, 2)
            await subscription.release([again])
            await subscription.ack(await receive(subscription, 1))
        assert await transport.stats(exchange, "reply") == QueueStats(waiting=0, consumers=1)
        await other.close()
        await self.until_gone(await connect(), exchange)
        await transport.declare(exchange, "tap", temporary=True)
        await nothing(await transport.subscribe(exchange, "tap", 10))
        await transport.publish(exchange, [message(5)])
        await transport.delete(exchange, "tap")
        await self.until_gone(await connect(), exchange)

    async def until_gone(self, transport: Connection, exchange: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while await transport.stats(exchange, "tap") or await transport.stats(exchange, "reply"):
            assert time.monotonic() < deadline, "it has expired"
            await asyncio.sleep(0.05)
        with pytest.raises(Unroutable):
            await transport.publish(exchange, [message(9)])
        with pytest.raises(BrokerLost, match="has no queue 'reply'"):
            await transport.send(exchange, "reply", [message(9)])


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[ActiveMQ]:
    """One that asks for a password, forbids some things and has no message store."""
    with required(running_activemq(plugins=USERS + STATISTICS, persistent=False)) as server:
        yield server


def guarded(server: ActiveMQ, password: str = PASSWORD) -> str:
    return server.url.replace("://", f"://u:{password.replace(':', '%3A')}@")


async def test_an_exclusive_consumer_gets_everything(connect: Connect, exchange: str, url: str) -> None:
    options: dict[str, Any] = {exchange: {"activemq.exclusive": True}}
    publisher = await connect(url)
    await publisher.declare(exchange, "q")
    first, second = [await (await connect(url, options)).subscribe(exchange, "q", 100) for _ in range(2)]
    await publisher.publish(exchange, [message(n) for n in range(20)])
    assert numbers(await receive(first, 20)) == list(range(20))
    await nothing(second)


@pytest.mark.parametrize("name", [".", "..", "a..b", ".a.", "-", "_", "VirtualTopic", "Consumer.q", "ActiveMQ"])
async def test_every_name_that_is_allowed_has_a_queue_of_its_own(name: str, transport: Connection) -> None:
    for exchange in (name, f"{name}.x", f"x.{name}"):
        await transport.declare(exchange, "q")
    await transport.publish(name, [message(1)])
    assert [await depth(transport, exchange, "q") for exchange in (name, f"{name}.x", f"x.{name}")] == [1, 0, 0]
    subscription = await transport.subscribe(name, "q", 10)
    await subscription.ack(await receive(subscription, 1))


async def test_a_message_of_any_client_is_read_and_ours_can_be_selected_by_its_headers(
    url: str, exchange: str, transport: Connection, queue: Inbox
) -> None:
    # Given another client, that selects from a queue of its own
    shown: list[stompman.MessageFrame] = []

    async def show(frame: stompman.MessageFrame) -> None:
        shown.append(frame)

    parts = urlsplit(url)
    other = stompman.ConnectionParameters(str(parts.hostname), int(parts.port or 0), "", "")
    async with stompman.Client([other]) as client:
        selecting = await client.subscribe(
            f"/queue/Consumer.other.VirtualTopic.{exchange}",
            show,
            headers={"selector": "colour = 'blue: \\ sky'"},
            on_suppressed_exception=print,
            receipt_timeout=PATIENCE,
        )
        # When both publish
        headers = {"mqasync-attempt": "x", "mqasync-time": "nan", "persistent": "true"}
        own = {"shape": "round", "type": "order", "correlation-id": "7", "reply-to": "/queue/back"}
        for more in ({}, {"mqasync-due": "now"}, {"mqasync-packed": "[[", "mqasync-before": "-9"}):
            await client.send(
                b"", f"/topic/VirtualTopic.{exchange}", headers=headers | own | more, receipt_timeout=PATIENCE
            )
        blue, red = "blue: \\ sky", "red"
        colours = [Message(body=b"1", exchange=exchange, headers={"colour": colour}) for colour in (red, blue)]
        await transport.publish(exchange, colours)
        # Then each reads the other's
        for strange in [delivery.message for delivery in await receive(queue, 5)][:3]:
            assert (strange.attempt, strange.headers, strange.body) == (1, own, b"")
            assert abs(strange.time - time.time()) < PATIENCE
            assert strange.id.startswith("ID:")
        await until(lambda: bool(shown), "the selected one came")
        assert [one.headers["mqasync-id"] for one in shown] == [colours[1].id]  # type: ignore[typeddict-item]
        await selecting.unsubscribe()


async def test_headers_that_mean_something_to_stomp_do_nothing_and_arrive(
    exchange: str, transport: Connection, queue: Inbox
) -> None:
    names = ["destination", "receipt", "transaction", "expires", "content-length", "AMQ_SCHEDULED_DELAY", "JMSXGroupID"]
    names += ["mqasync_marker"]
    headers = dict.fromkeys(names, "60000") | {" ": " x ", "": "nameless", "long": "v" * 50_000, "a:b": "\\n\r\n:"}
    sent = Message(body=b"\0\n\n\0", exchange=exchange, headers=headers)
    await transport.publish(exchange, [sent, message(2)])
    received = await receive(queue, 2)
    assert received[0].message == sent


async def test_thousands_of_headers_arrive(exchange: str, transport: Connection, queue: Inbox) -> None:
    sent = Message(body=b"1", exchange=exchange, headers={f"{n}": "" for n in range(10_000)})
    await transport.publish(exchange, [sent])
    (delivery,) = await receive(queue, 1)
    assert delivery.message == sent


async def test_a_delayed_message_survives_the_consumer_that_waited_for_it(
    connect: Connect, exchange: str, url: str
) -> None:
    transport, other = await connect(url), await connect(url)
    await transport.declare(exchange, "q")
    due = time.time() + 2.0
    await transport.send(exchange, "q", [message(n) for n in range(3)], delay=2.0)
    waiting = await other.subscribe(exchange, "q", 2)
    await nothing(waiting)
    await other.close()
    subscription = await transport.subscribe(exchange, "q", 10)
    assert sorted(numbers(await receive(subscription, 3))) == [0, 1, 2]
    assert time.time() > due - 0.05
    assert await depth(transport, exchange, "q") == 3


async def test_delayed_messages_take_no_more_than_the_prefetch_when_they_are_due(
    exchange: str, transport: Connection
) -> None:
    await transport.declare(exchange, "q")
    await transport.send(exchange, "q", [message(n) for n in range(5)], delay=0.1)
    subscription = await transport.subscribe(exchange, "q", 2)
    seen: list[int] = []
    while len(seen) < 5:
        deliveries = await receive(subscription, min(2, 5 - len(seen)))
        seen += numbers(deliveries)
        await subscription.ack(deliveries)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    await until_empty(transport, exchange)


async def until_empty(transport: Connection, exchange: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while await depth(transport, exchange, "q"):
        assert time.monotonic() < deadline, "what was acknowledged is gone"
        await asyncio.sleep(0.01)


async def test_a_queue_that_is_not_there_and_one_that_was_just_declared_have_no_depth(
    exchange: str, transport: Connection
) -> None:
    with pytest.raises(BrokerLost, match="has no queue 'q'"):
        await transport.send(exchange, "q", [message(1)])
    assert await transport.stats(exchange, "q") is None
    await transport.declare(exchange, "q")
    assert await depth(transport, exchange, "q") == 0, "its marker does not count"


async def test_a_server_without_statistics_is_warned_about_and_carries_messages_all_the_same(connect: Connect) -> None:
    with required(running_activemq(plugins="")) as server:
        transport = await connect(server.url)
        assert "<statisticsBrokerPlugin/>" in transport.warning
        await transport.publish("E", [message(0)])
        for _ in range(2):
            await transport.declare("E", "q")
        await transport.publish("E", [message(1), message(2)])
        await transport.send("E", "q", [message(3)], delay=0.1)
        assert await depth(transport, "E", "q") == 3
        subscription = await transport.subscribe("E", "q", 10)
        assert sorted(numbers(await receive(subscription, 3))) == [1, 2, 3]
        assert await transport.queues() is None
        with pytest.raises(BrokerRefused, match="find it by statistics"):
            await transport.declare("E", "reply", bound=False, temporary=True)
        await transport.declare("E", "tap", temporary=True)
        await transport.publish("E", [message(4)])
        assert numbers(await receive(await transport.subscribe("E", "tap", 10), 1)) == [4]
        await transport.delete("E", "q")
        assert await depth(transport, "E", "q") == 0
        # what somebody else finds in a queue of his
        await (await connect(server.url, {"E": {"queues": {"q": {"queue": "legacy"}}}})).declare("E", "q")
        found: list[bytes] = []

        async def find(frame: stompman.MessageFrame) -> None:
            found.append(frame.body)

        async with stompman.Client([stompman.ConnectionParameters("127.0.0.1", server.port, "", "")]) as client:
            await client.send(b"his", "/queue/legacy", receipt_timeout=PATIENCE)
            his = await client.subscribe("/queue/legacy", find, on_suppressed_exception=print)
            await until(lambda: b"his" in found, "his own")
            await his.unsubscribe()
        assert found == [b"his"]


async def test_a_server_without_a_store_is_warned_about_and_one_with_it_is_not(
    connect: Connect, guarded_server: ActiveMQ, url: str
) -> None:
    assert 'persistent="true"' in (await connect(guarded(guarded_server))).warning
    assert (await connect(url)).warning == ""


async def test_a_full_memory_stops_publishers_and_nobody_else_not_even_new_consumers(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqasync.transports.activemq.FULL_SECONDS", 1.0)
    with required(running_activemq(policies="", memory="1 mb")) as server:
        transport = await connect(server.url)
        for exchange in ("A", "B", "C"):
            await transport.declare(exchange, "q")
        # Given more than the broker's memory takes
        published = 0

        async def publish() -> None:
            nonlocal published
            for exchange in "ABC" * 20:
                await transport.publish(exchange, [Message(body=b"x" * 1000, exchange=exchange) for _ in range(100)])
                published += 100

        publishing = asyncio.create_task(publish())
        stuck = 0
        while not publishing.done() and (published > stuck or not published):
            stuck = published
            await asyncio.sleep(2.0)
        assert not publishing.done(), "flow control strikes"
        # When a consumer comes
        other = await connect(server.url)
        subscriptions: list[Inbox] = []
        for exchange in ("A", "B", "C"):
            await other.declare(exchange, "q")
            subscriptions.append(await other.subscribe(exchange, "q", 50))
        # Then it gets everything, and the publisher goes on too
        received = 0
        deadline = time.monotonic() + 2 * PATIENCE
        while received < 6000:
            assert time.monotonic() < deadline, f"{received} came, {published} were published"
            for subscription in subscriptions:
                deliveries = await subscription.receive(50, 0.05)
                received += len(deliveries)
                await subscription.ack(deliveries)
        await publishing


async def test_a_batch_larger_than_the_memory_gets_through(connect: Connect) -> None:
    with required(running_activemq(policies="", memory="2 mb")) as server:
        transport = await connect(server.url)
        await transport.declare("E", "q")
        batch = [Message(body=b"x" * 50_000, exchange="E") for _ in range(100)]
        await asyncio.wait_for(transport.publish("E", batch), PATIENCE)
        assert await depth(transport, "E", "q") == 100


async def test_an_idle_connection_is_kept_by_its_heartbeats(connect: Connect, url: str, exchange: str) -> None:
    transport = await connect(f"{url}?heartbeat=1")
    await transport.declare(exchange, "q")
    subscription = await transport.subscribe(exchange, "q", 10)
    assert await subscription.receive(10, 4.0) == []
    await transport.publish(exchange, [message(1)])
    assert numbers(await receive(subscription, 1)) == [1]


async def test_a_wrong_password_is_refused_and_not_shown(connect: Connect, guarded_server: ActiveMQ) -> None:
    with pytest.raises(BrokerRefused, match="password is invalid") as caught:
        await connect(guarded(guarded_server, "wrong"))
    assert "wrong" not in str(caught.value)
    with pytest.raises(BrokerRefused, match="password is invalid"):
        await connect(guarded_server.url)


async def test_what_is_forbidden_is_refused_with_the_reason(connect: Connect, guarded_server: ActiveMQ) -> None:
    transport = await connect(guarded(guarded_server))
    await transport.declare("forbidden", "q")
    for count in (1, 2):
        with pytest.raises(BrokerRefused, match=r"not authorized to write to: topic://VirtualTopic\.forbidden"):
            await transport.publish("forbidden", [message(n) for n in range(count)])
    await transport.declare("unreadable", "q")
    with pytest.raises(BrokerRefused, match="not authorized to read"):
        await transport.subscribe("unreadable", "q", 10)
    # And the connection lives on
    await transport.declare("allowed", "q")
    await transport.publish("allowed", [message(1), message(2)])
    assert numbers(await receive(await transport.subscribe("allowed", "q", 10), 2)) == [1, 2]


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            b"CONNECTED\nversion:1.2\nserver:RabbitMQ/3.13.0\nheart-beat:0,0\n\n\0\n",
            BrokerRefused,
            r"it is RabbitMQ/3\.13\.0; this transport needs ActiveMQ Classic",
        ),
        (b"ERROR\nmessage:Exceeded the maximum number of connections\n\n\0\n", BrokerBusy, "Exceeded the maximum"),
        (b"HTTP/1.1 400 Bad Request\ncontent-length:x\n\n", BrokerLost, "not STOMP"),
        (b"", BrokerLost, "closed the connection"),
    ],
)
async def test_a_server_that_does_not_connect_us_is_an_error_that_says_why(
    connect: Connect, answer: bytes, error: type[Exception], text: str
) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\0")
        writer.write(answer)
        if answer:
            await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(error, match=text):
            await connect(f"activemq://127.0.0.1:{port}")


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_frames_are_read_whatever_pieces_they_come_in(size: int) -> None:
    sent = [
        ("MESSAGE", {"content-length": "5", "a:\\": "b\r\nc"}, b"\0\n\n\0x"),
        ("RECEIPT", {"receipt-id": "1"}, b""),
        ("ERROR", {"message": "ä"}, b"text"),
    ]
    data = b"\n\nMESSAGE\ncontent-length:5\na\\c\\\\:b\\r\\nc\n\n\0\n\n\0x\0\nRECEIPT\nreceipt-id:1\n\n\0\n\n"
    data += "ERROR\nmessage:ä\nmessage:second\n\ntext\0\n".encode()
    buffer, read = bytearray(), []
    for start in range(0, len(data), size):
        buffer += data[start : start + size]
        while frame := take_frame(buffer):
            read.append(frame)
    assert (read, bytes(buffer)) == (sent, b"")
