"""The rabbitmq transport keeps the contract; and its own: arguments of queues, and what its management plugin tells."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aio_pika
import aiormq
import pytest

from mqasync import BrokerLost, BrokerRefused, ConfigurationError, Message, Unroutable
from mqasync.brokers.connection import load
from mqasync.errors import NoSuchQueue
from mqasync.transport import DEAD, Features
from mqasync.transports import rabbitmq as ours
from mqasync.transports.common.names import named

from .brokers import RabbitMQ, free_port, rabbitmq
from .conformance import Conformance, message, numbers, receive
from .conftest import Connect, required
from .waiting import depth, until


class TestRabbitMQ(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(ours, "TEMPORARY_SECONDS", 2)
        return rabbitmq_url


def arguments_of(server: RabbitMQ, queue: str) -> str:
    """As rabbitmqctl shows them; empty where there is no such queue."""
    lines = server.control("list_queues", "--no-table-headers", "name", "arguments").splitlines()
    return next((arguments for name, _, arguments in (line.partition("\t") for line in lines) if name == queue), "")


# arguments of queues


async def test_of_many_queues_declared_at_once_a_refused_one_takes_no_other_with_it(
    rabbitmq_url: str, exchange: str, connect: Connect
) -> None:
    transport = await connect(rabbitmq_url)
    await transport.declare(exchange, "q0", temporary=True)
    ids = [f"q{n}" for n in range(30)]
    results = await asyncio.gather(
        *(transport.declare(exchange, id, bound=False) for id in ids), return_exceptions=True
    )
    assert isinstance(results[0], BrokerRefused)
    assert results[1:] == [None] * (len(ids) - 1)


async def test_dead_letters_are_kept_however_often_somebody_looks_at_them(
    rabbitmq_server: RabbitMQ, exchange: str, connect: Connect
) -> None:
    transport = await connect(rabbitmq_server.url)
    await transport.declare(exchange, "q" + DEAD, bound=False)
    await transport.send(exchange, "q" + DEAD, [message(1), message(2)])
    subscription = await transport.subscribe(exchange, "q" + DEAD, 10)
    for _ in range(2 * ours.RETURNS):
        await subscription.release(await receive(subscription, 2))
    assert sorted(numbers(await receive(subscription, 2))) == [1, 2]
    # RabbitMQ 4 would keep them by this alone; without it, its limit is 20
    assert '{"x-delivery-limit",1000000000}' in arguments_of(rabbitmq_server, f"{exchange}.q.dead")


async def test_a_queue_of_dead_letters_that_could_lose_them_is_refused(
    rabbitmq_server: RabbitMQ, exchange: str, connect: Connect
) -> None:
    async with await aio_pika.connect(rabbitmq_server.url) as connection:
        before = await connection.channel()
        await before.declare_queue(
            f"{exchange}.q.dead", durable=True, arguments={"x-queue-type": "quorum", "x-max-length": 5}
        )
    transport = await connect(rabbitmq_server.url)
    with pytest.raises(BrokerRefused, match="inequivalent arg"):
        await transport.declare(exchange, "q" + DEAD, bound=False)


async def test_a_queue_that_is_there_does_not_become_one_that_expires(
    rabbitmq_server: RabbitMQ, exchange: str, connect: Connect
) -> None:
    transport = await connect(rabbitmq_server.url)
    await transport.declare(exchange, "q")
    with pytest.raises(BrokerRefused, match="inequivalent arg"):
        await transport.declare(exchange, "q", temporary=True)
    assert await depth(transport, exchange, "q") == 0


async def test_retries_that_another_process_began_after_we_first_looked_are_counted(
    rabbitmq_server: RabbitMQ, exchange: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "SEARCH_SECONDS", 0.0)
    transport, other = await connect(rabbitmq_server.url), await connect(rabbitmq_server.url)
    await transport.declare(exchange, "q")
    assert await depth(transport, exchange, "q") == 0
    await other.send(exchange, "q", [message(1)], delay=60)
    stats = await transport.stats(exchange, "q")
    assert stats and (stats.waiting, stats.delayed) == (0, 1)
    await transport.delete(exchange, "q")
    assert exchange not in rabbitmq_server.control("list_queues", "name")


async def test_an_error_on_one_channel_is_told_where_it_receives_and_costs_nobody_else(
    rabbitmq_url: str, exchange: str, connect: Connect
) -> None:
    transport: Any = await connect(rabbitmq_url)
    for id in ("q", "other"):
        await transport.declare(exchange, id)
    subscription, other = [await transport.subscribe(exchange, id, 2) for id in ("q", "other")]
    await transport.publish(exchange, [message(1), message(2)])
    held = await receive(subscription, 2)
    # When RabbitMQ closes the channel while it has in hand what it may
    await subscription._inner._channel.basic_ack(10**9, wait=False)
    await until(lambda: subscription._inner._channel.is_closed, "it is closed")
    with pytest.raises(NoSuchQueue):
        await subscription.ack(held)
    with pytest.raises(NoSuchQueue):
        await asyncio.wait_for(subscription.receive(2, 60.0), 5)
    # Then the others go on, and the messages are there for the next
    assert sorted(numbers(await receive(other, 2))) == [1, 2]
    assert sorted(numbers(await receive(await transport.subscribe(exchange, "q", 2), 2))) == [1, 2]


async def test_who_accepts_connections_and_closes_them_at_once_is_lost_and_nobody_hangs() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", port := free_port()):
        transport = load(f"amqp://guest:guest@127.0.0.1:{port}/")
        with pytest.raises(BrokerLost):
            await transport.open()
        await transport.close()


# what is patched


def test_what_the_patches_rely_on_is_there_in_the_versions_that_are_pinned() -> None:
    names = ("_split_body", "create_future", "_confirm_delivery", "_on_return_frame")
    assert all(hasattr(aiormq.Channel, name) for name in names)
    pinned = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert all(f"{name}=={version(name)}" in pinned for name in ("aio-pika", "aiormq", "pamqp"))


async def test_a_batch_of_any_sizes_is_published_whole_or_where_nobody_listens_not_at_all(
    rabbitmq_url: str, exchange: str, connect: Connect
) -> None:
    transport = await connect(rabbitmq_url)
    messages = [Message(body=b"x" * size, exchange=exchange, id=str(size)) for size in (0, 1, 200_000, 1_000_000)]
    with pytest.raises(Unroutable):
        await transport.publish(exchange, messages)
    await transport.declare(exchange, "q")
    await transport.publish(exchange, messages)
    found = await receive(await transport.subscribe(exchange, "q", 10), len(messages))
    assert [(delivery.message.id, delivery.message.body) for delivery in found] == [(m.id, m.body) for m in messages]


# the management plugin


@pytest.fixture(scope="module")
def managed() -> Iterator[RabbitMQ]:
    """A RabbitMQ with the management plugin and a virtual host whose name has a slash."""
    with required(rabbitmq(management=True)) as server:
        server.control("add_vhost", "team/a")
        server.control("set_permissions", "-p", "team/a", "guest", ".*", ".*", ".*")
        yield server


async def test_the_management_plugin_tells_which_queues_of_ours_there_are(
    managed: RabbitMQ, exchange: str, connect: Connect
) -> None:
    # Given queues of ours in two virtual hosts, a delayed message, and queues of somebody else
    named_so = [(exchange, "q"), (exchange, "q" + DEAD), (f"{exchange}.sub", "q")]
    elsewhere = await connect(f"{managed.url}?management={managed.management}")
    transport = await connect(f"{managed.url}team%2Fa?management={managed.management}/")
    for name, id in named_so:
        await transport.declare(name, id, bound=not id.endswith(DEAD))
    await transport.send(exchange, "q", [message(1)], delay=60)
    await elsewhere.declare(exchange, "elsewhere")
    async with await aio_pika.connect(f"{managed.url}team%2Fa") as connection:
        channel = await connection.channel()
        for foreign in ("", "foreign", f"{exchange}.with blanks"):
            await channel.declare_queue(foreign, exclusive=True)
        # Then it tells of ours alone, by virtual host
        assert await transport.queues() == named_so
    assert await elsewhere.queues() == [(exchange, "elsewhere")]
    # And AMQP alone tells nothing
    assert await (await connect(managed.url)).queues() is None


async def test_a_memory_alarm_stops_publishing_alone_and_says_so(
    managed: RabbitMQ, exchange: str, connect: Connect
) -> None:
    transport = await connect(managed.url)
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(1)])
    managed.control("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        publishing = asyncio.create_task(transport.publish(exchange, [message(2)]))
        await until(lambda: transport.blocked == "it is low on memory or disk", "it says so")
        # Then the other connection does everything else
        await transport.declare(exchange, "other")
        held = await receive(subscription := await transport.subscribe(exchange, "q", 10), 1)
        await subscription.ack(held)
        assert not publishing.done()
    finally:
        managed.control("set_vm_memory_high_watermark", "0.4")
    await publishing
    await until(lambda: not transport.blocked, "it takes messages again")


async def test_a_user_whom_the_management_plugin_refuses_is_told_so_without_the_password(
    managed: RabbitMQ, connect: Connect
) -> None:
    managed.control("add_user", "service", "s3cr3t")
    managed.control("set_permissions", "service", ".*", ".*", ".*")
    service = managed.url.replace("guest:guest", "service:s3cr3t")
    untagged = await connect(f"{service}?management={managed.management}")
    wrong = load(f"{managed.url.replace('guest:guest', 'guest:s3cr3t')}?management={managed.management}")
    for transport in (untagged, wrong):
        with pytest.raises(BrokerRefused, match=f"{managed.management} .* HTTP Error 401: Unauthorized") as refused:
            await transport.queues()
        assert "s3cr3t" not in str(refused.value)
        assert "\n" not in str(refused.value)


async def test_a_management_plugin_that_is_not_there_takes_no_connection_along(
    managed: RabbitMQ, exchange: str, connect: Connect
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    transport = await connect(f"{managed.url}?management={nobody}")
    with pytest.raises(BrokerRefused, match=f"management at {nobody} does not list .*Connection refused"):
        await transport.queues()
    await transport.declare(exchange, "q")


@asynccontextmanager
async def answering(answer: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Something that is no management plugin: its address, and what it was asked."""
    requests: list[bytes] = []

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", port := free_port()):
        yield f"http://127.0.0.1:{port}", requests


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("AMQP\r\n", "the server at {address} is not RabbitMQ's management"),
        ("HTTP/1.0 200 OK\r\n\r\n<html>", "the server at {address} is not RabbitMQ's management"),
        ('HTTP/1.0 200 OK\r\n\r\n{"a": 1}', "the server at {address} is not RabbitMQ's management"),
        ("HTTP/1.0 404 Not Found\r\n\r\n", "{address} does not list the queues: HTTP Error 404: Not Found"),
        ("", "{address} does not list the queues: "),
    ],
)
async def test_what_is_not_the_management_plugin_is_named(answer: str, problem: str) -> None:
    async with answering(answer) as (address, _):
        with pytest.raises(BrokerRefused) as raised:
            await load(f"amqp://me:s3cr3t@h/?management={address}").queues()
        assert problem.format(address=address) in str(raised.value)
        assert "s3cr3t" not in str(raised.value)


async def test_nobody_else_gets_the_password_from_a_redirection() -> None:
    async with answering("HTTP/1.0 401 Unauthorized\r\n\r\n") as (elsewhere, asked):
        async with answering(f"HTTP/1.0 302 Found\r\nLocation: {elsewhere}/\r\n\r\n") as (address, requests):
            with pytest.raises(BrokerRefused):
                await load(f"amqp://me:s3cr3t@h/?management={address}").queues()
    assert [b"Authorization" in request for request in requests + asked] == [True, False]


async def test_a_management_plugin_without_tls_is_not_asked_over_tls(managed: RabbitMQ) -> None:
    address = managed.management.replace("http", "https")
    with pytest.raises(BrokerRefused, match=f"management at {address} .*WRONG_VERSION_NUMBER"):
        await load(f"{managed.url}?management={address}").queues()


@pytest.mark.parametrize(
    "address", ["localhost:15672", "ftp://h", "http://", "http://h:x", "http://me:geheim@h:15672", "http://h?a=b"]
)
def test_an_address_of_the_management_plugin_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="management takes http://host:port, or https://") as refused:
        load(f"amqp://me:s3cr3t@h/?management={address}")
    assert "s3cr3t" not in str(refused.value)
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "queue"),
    [
        ("E.q", ("E", "q")),
        ("E.q.dead", ("E", "q.dead")),
        ("a.b.c", ("a.b", "c")),
        ("a.dead.q", ("a.dead", "q")),
        ("a.dead.dead", None),  # an id is never 'dead'
        ("...x", ("..", "x")),
        ("E.q.retry.5", None),
        ("E.q.dead.retry.5", None),
        ("retry.5", ("retry", "5")),
        ("q", None),
        (".q", None),
        ("E.", None),
        ("", None),
        (".dead", None),
        ("amq.gen-abc", None),
        ("E.with blanks", None),
        ("E.ä", None),
    ],
)
def test_the_name_of_a_queue_tells_its_exchange_and_id(name: str, queue: tuple[str, str] | None) -> None:
    assert named(name) == queue
