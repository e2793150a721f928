"""The redis transport keeps the contract; what it refuses, warns of, and does when Redis does not do as it should."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mqasync import ConfigurationError, Message
from mqasync.brokers.broker import Brokers
from mqasync.brokers.connection import Connection, load
from mqasync.config.settings import Settings
from mqasync.core.channel import Channel
from mqasync.errors import BrokerBusy, BrokerRefused, NoSuchQueue
from mqasync.operate.checks import ERROR, Checks
from mqasync.transport import DEAD, Features

from .brokers import free_port
from .conformance import Conformance, message, numbers, receive, retry
from .conftest import Connect, required
from .servers.redis import DURABLE, DurableRedis, durable_redis
from .waiting import PATIENCE, depth, until
from .working import idle, working


@pytest.fixture
def url(redis_broker: DurableRedis) -> str:
    return f"{redis_broker.url}?lease=2"


class TestRedis(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)


@pytest.fixture(scope="module")
def private_redis() -> Iterator[DurableRedis]:
    """One whose settings a test may change and has to change back."""
    with required(durable_redis()) as server:
        yield server


@pytest.fixture
def server(private_redis: DurableRedis) -> Iterator[DurableRedis]:
    yield private_redis
    for name, value in {
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "appendfsync": "always",
        "appendonly": "yes",
    }.items():
        private_redis.command("CONFIG", "SET", name, value)
    private_redis.command("ACL", "DELUSER", "guest")


# what the server is like


async def test_a_server_that_loses_nothing_is_not_warned_of(server: DurableRedis, connect: Connect) -> None:
    assert (await connect(server.url)).warning == ""


@pytest.mark.parametrize(
    ("setting", "value", "warning"),
    [
        ("appendonly", "no", "loses them when it stops: set appendonly to yes"),
        ("appendfsync", "everysec", "a power cut loses what is not on disk yet: set appendfsync to always"),
        ("appendfsync", "no", "a power cut loses what is not on disk yet"),
        ("maxmemory-policy", "allkeys-lru", "it evicts messages when it is full: set maxmemory-policy to"),
    ],
)
async def test_a_server_that_may_lose_messages_is_warned_of(
    server: DurableRedis, setting: str, value: str, warning: str, connect: Connect
) -> None:
    server.command("CONFIG", "SET", setting, value)
    assert warning in (await connect(server.url)).warning


async def test_a_wrong_password_or_database_is_refused(server: DurableRedis, connect: Connect) -> None:
    server.command("ACL", "SETUSER", "guest", "on", ">right")
    refused = {
        f"redis://guest:hidden@127.0.0.1:{server.port}/0": "invalid username-password pair",
        f"redis://127.0.0.1:{server.port}/99": "DB index is out of range",
        f"redis://guest:right@127.0.0.1:{server.port}/0": "no permission",
    }
    for url, problem in refused.items():
        with pytest.raises(BrokerRefused, match=f"(?i){problem}") as refusal:
            transport = await connect(url)
            await transport.declare("CTH", "q")
        assert "hidden" not in str(refusal.value)


async def test_a_user_who_may_only_use_the_keys_can_work(server: DurableRedis, exchange: str, connect: Connect) -> None:
    # Given a user who may neither ask the server about itself nor wake others
    server.command("ACL", "SETUSER", "guest", "on", ">right", "~mqasync:*", "+@all", "-@dangerous", "-@admin")
    transport = await connect(f"redis://guest:right@127.0.0.1:{server.port}/0")
    assert transport.warning.startswith("its settings cannot be read; perhaps it evicts messages when it is full")
    await transport.declare(exchange, "q")
    subscription = await transport.subscribe(exchange, "q", 10)
    receiving = asyncio.create_task(subscription.receive(10, 60.0))
    await asyncio.sleep(0.05)
    # When something is delayed while it waits, that comes
    await transport.send(exchange, "q", [message(1)], delay=0.1)
    assert numbers(await asyncio.wait_for(receiving, PATIENCE)) == [1]
    # And closing ends a wait
    receiving = asyncio.create_task(subscription.receive(10, 60.0))
    await asyncio.sleep(0.05)
    await subscription.close()
    assert await asyncio.wait_for(receiving, 5) == []


async def test_without_memory_nothing_is_published_and_consumers_go_on(
    server: DurableRedis, exchange: str, connect: Connect
) -> None:
    transport = await connect(server.url)
    for id in ("q", "other"):
        await transport.declare(exchange, id)
    await transport.publish(exchange, [message(n) for n in range(3)])
    subscription = await transport.subscribe(exchange, "q", 10)
    held = await receive(subscription, 3)
    server.command("CONFIG", "SET", "maxmemory", "1")
    # When there is no memory, publishing is put off, for all ids
    with pytest.raises(BrokerBusy, match="used memory > 'maxmemory'"):
        await transport.publish(exchange, [message(3)])
    # And what is in hand can be settled in every way
    await subscription.ack(held[:1])
    await retry(subscription, held[1], 0.1)
    await subscription.release(held[2:])
    again = await receive(subscription, 2)
    assert sorted((int(one.message.body), one.message.attempt) for one in again) == [(1, 2), (2, 1)]
    await subscription.ack(again)
    assert [await depth(transport, exchange, id) for id in ("q", "other")] == [0, 3]
    server.command("CONFIG", "SET", "maxmemory", "0")
    await transport.publish(exchange, [message(4)])
    assert numbers(await receive(subscription, 1)) == [4]


async def test_who_connects_while_redis_is_busy_waits_for_it(server: DurableRedis, exchange: str) -> None:
    brokers = Brokers(Settings(brokers={"main": server.url}))
    try:
        # Given a Redis that is busy with a script, When somebody connects
        with server.busy():
            declaring = asyncio.create_task(brokers.route(exchange).call(lambda it: it.declare(exchange, "q")))
            await asyncio.wait([declaring], timeout=0.5)
            assert not declaring.done(), declaring.exception()
        # Then that is put off until Redis has time
        await asyncio.wait_for(declaring, PATIENCE)
    finally:
        await brokers.close()


async def test_a_flushed_queue_is_told_and_made_again_and_a_flushed_script_is_loaded_again(
    server: DurableRedis, exchange: str, connect: Connect
) -> None:
    transport = await connect(server.url)
    await transport.declare(exchange, "q")
    subscription = await transport.subscribe(exchange, "q", 10)
    receiving = asyncio.create_task(subscription.receive(10, PATIENCE))
    await asyncio.sleep(0.1)
    server.command("FLUSHALL")
    with pytest.raises(NoSuchQueue):
        await receiving
    server.command("SCRIPT", "FLUSH")
    # What is sent to a queue that was there a moment ago is kept
    await transport.send(exchange, "q", [message(1)])
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(2)])
    held = await receive(subscription, 2)
    assert numbers(held) == [1, 2]
    server.command("SCRIPT", "FLUSH")
    await subscription.ack(held)
    assert await depth(transport, exchange, "q") == 0


@pytest.mark.parametrize("how", ["flushed", "restarted without persistence"])
async def test_what_redis_threw_away_is_said_once(how: str, exchange: str, caplog: pytest.LogCaptureFixture) -> None:
    with required(durable_redis("--save", "")) as server:
        async with at_work(idle(exchange), server.url) as channel:
            if how == "flushed":
                server.command("FLUSHALL")
            else:
                server.kill()
                server.start()
            gone = f"{exchange}/q: its queue is gone, with all messages in it; creating it again"
            await until(lambda: gone in caplog.messages, "it is said")
            await until(lambda: channel.consuming, "it consumes again")
            await channel.broker.publish(exchange, Message(body=b"{}", exchange=exchange))
            await until(lambda: channel.counts.handled == 1, "it is handled")
        assert caplog.messages.count(gone) == 1


# what takes no writes, or is not one server


@asynccontextmanager
async def at_work(handler: Any, url: str) -> AsyncIterator[Channel]:
    brokers = Brokers(Settings(brokers={"main": url}))
    async with working(brokers, handler, grace=1.0) as (channel,):
        await until(lambda: channel.consuming, "it consumes")
        yield channel
    await brokers.close()


async def test_a_demoted_master_is_lost_once_and_back_once_when_it_takes_writes_again(
    exchange: str, caplog: pytest.LogCaptureFixture
) -> None:
    with required(durable_redis()) as server:
        async with at_work(idle(exchange), server.url) as channel:
            # When it becomes a replica, of nobody who answers
            server.command("REPLICAOF", "127.0.0.1", str(free_port()))
            await until(lambda: channel.broker.state == "not connected", "it is noticed")
            await asyncio.sleep(2.5)
            assert channel.broker.state == "not connected", "connected means that it takes writes"
            assert len([line for line in caplog.messages if line.startswith("broker main")]) == 1
            # Then the next connection is said once, too
            server.command("REPLICAOF", "NO", "ONE")
            await channel.broker.publish(exchange, Message(body=b"{}", exchange=exchange))
            await until(lambda: channel.counts.handled == 1, "it is handled")
        lines = [line for line in caplog.messages if line.startswith("broker main")]
        assert "replica" in lines[0] or "UNBLOCKED" in lines[0], lines
        assert lines[1:] == [f"broker main at {server.url} is connected again"]


async def test_a_replica_is_not_connected_to_and_check_says_why(server: DurableRedis) -> None:
    with required(durable_redis(*DURABLE, "--replicaof", "127.0.0.1", str(server.port))) as replica:
        brokers = Brokers(Settings(brokers={"main": replica.url}))
        (finding,) = await Checks([], brokers, 2.0).run()
        await brokers.close()
    assert (finding.result, finding.about) == (ERROR, "broker main")
    assert "within 2 s: " in finding.detail and "replica" in finding.detail


@pytest.mark.parametrize("mode", ["cluster", "sentinel"])
async def test_a_node_of_a_cluster_and_a_sentinel_are_refused_in_one_sentence(
    mode: str, tmp_path: Path, connect: Connect
) -> None:
    (tmp_path / "sentinel.conf").touch()
    cluster = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]  # else 10,000 above the other
    arguments = {"cluster": cluster, "sentinel": [str(tmp_path / "sentinel.conf"), "--sentinel"]}
    with required(durable_redis(*arguments[mode])) as server:
        with pytest.raises(
            BrokerRefused, match=r"one Redis server, .*, not a Cluster; with Sentinels use redis\+sentinel://"
        ):
            await connect(server.url)


@pytest.mark.parametrize("tls", [False, True])
async def test_by_sentinels_who_works_goes_on_with_the_new_master(
    tls: bool, certificates: Path, tmp_path: Path, exchange: str
) -> None:
    trusted = certificates if tls else None

    def port(server: DurableRedis) -> int:
        return server.secure_port if tls else server.port

    with required(durable_redis(certificates=trusted)) as master:
        replica_of = ("--replicaof", "127.0.0.1", str(port(master)))
        (tmp_path / "sentinel.conf").write_text(
            f"sentinel monitor one 127.0.0.1 {port(master)} 1\nsentinel down-after-milliseconds one 500\n"
            "sentinel failover-timeout one 2000\n"
        )
        watching = durable_redis(str(tmp_path / "sentinel.conf"), "--sentinel", certificates=trusted)
        with durable_redis(*DURABLE, *replica_of, certificates=trusted) as replica, watching as sentinel:
            # Given two Sentinels in the URL, of which one is not there, and a replica that is in step
            await until(lambda: "master_link_status:up" in replica.command("INFO", "replication"), "it follows")
            await until(lambda: str(port(replica)) in sentinel.command("SENTINEL", "replicas", "one"), "it is known")
            url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{port(sentinel)}/one/0"
            if tls:
                files = f"?cafile={certificates}/ca.pem&certfile={certificates}/client.pem"
                url = url.replace("redis+", "rediss+") + files
            brokers = Brokers(Settings(brokers={"main": url}))
            async with working(brokers, idle(exchange)) as (channel,):
                await brokers.publish(Message(body=b"1", exchange=exchange))
                await until(lambda: channel.counts.handled == 1, "the first is handled")
                # When the master dies
                master.kill()
                await brokers.publish(Message(body=b"2", exchange=exchange))
                # Then the replica has taken over, and the work goes on there
                await until(lambda: channel.counts.handled >= 2, "the second is handled")
                assert "role:master" in replica.command("INFO", "replication")
            await brokers.close()


async def test_a_sentinel_that_cannot_be_trusted_is_not_asked(
    certificates: Path, tmp_path: Path, connect: Connect
) -> None:
    (tmp_path / "sentinel.conf").touch()
    watching = durable_redis(str(tmp_path / "sentinel.conf"), "--sentinel", certificates=certificates)
    with required(watching) as sentinel:
        with pytest.raises(BrokerRefused, match="its certificate is not trusted"):
            await connect(f"rediss+sentinel://127.0.0.1:{sentinel.secure_port}/one?cafile={certificates}/other-ca.pem")


def test_a_url_of_sentinels_names_the_master() -> None:
    with pytest.raises(
        ConfigurationError, match=r"must name a master: redis\+sentinel://user:password@host:port/master"
    ):
        load("redis+sentinel://host")
    with pytest.raises(ConfigurationError, match=r"cafile is for rediss\+sentinel://; a redis\+sentinel:// URL"):
        load("redis+sentinel://host/one?cafile=x")


# messages


async def test_a_delayed_message_comes_at_most_a_second_late(
    redis_broker: DurableRedis, exchange: str, connect: Connect
) -> None:
    transport, other = await connect(redis_broker.url), await connect(redis_broker.url)
    await transport.declare(exchange, "q")
    subscription = await transport.subscribe(exchange, "q", 10)
    for sender in (transport, other):
        receiving = asyncio.create_task(subscription.receive(10, PATIENCE))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        await sender.send(exchange, "q", [message(1)], delay=0.2)
        delivery = (await receiving)[0]
        assert 0.2 <= time.monotonic() - started <= 1.5
        await subscription.ack([delivery])


async def test_many_that_are_delayed_come_all_though_they_are_the_same(
    redis_broker: DurableRedis, exchange: str, transport: Connection
) -> None:
    await transport.declare(exchange, "q")
    await transport.send(exchange, "q", [message(1)] * 1000, delay=0.1)
    subscription = await transport.subscribe(exchange, "q", 1000)
    assert len(await receive(subscription, 1000, limit=1000)) == 1000


async def test_what_a_stranger_wrote_is_received_and_can_be_settled(
    redis_broker: DurableRedis, exchange: str, transport: Connection
) -> None:
    """Also before the queue was declared."""
    stream = f"mqasync:{{{exchange}}}:q"
    for fields in (("body", "hello"), ("mqasync", "no envelope\nhello"), ("name", "value")):
        redis_broker.command("XADD", stream, "*", *fields)
    await transport.declare(exchange, "q")
    queue = await transport.subscribe(exchange, "q", 10)
    await queue.release(await receive(queue, 3))
    plain, forged, other = held = await receive(queue, 3)
    assert (plain.message.body, forged.message.body, plain.unreadable) == (b"hello", b"hello", "")
    assert "envelope cannot be read" in forged.unreadable
    assert (other.message.body, other.unreadable) == (b'{"name": "value"}', "")
    await queue.ack(held)
    assert await depth(transport, exchange, "q") == 0


async def test_nothing_is_left_in_redis_of_messages_that_are_gone(
    redis_broker: DurableRedis, exchange: str, transport: Connection
) -> None:
    await transport.declare(exchange, "q")
    await transport.declare(exchange, "q" + DEAD, bound=False)
    await transport.publish(exchange, [Message(body=b"x" * 1000, exchange=exchange) for _ in range(300)])
    subscription = await transport.subscribe(exchange, "q", 1000)
    held = await receive(subscription, 300, limit=1000)
    await asyncio.gather(*(retry(subscription, delivery, 0.1) for delivery in held[:100]))  # within the lease of 2 s
    await subscription.ack(held[100:] + await receive(subscription, 100))
    keys = redis_broker.command("KEYS", f"mqasync:{{{exchange}}}*").split()
    assert sorted(key.partition("}")[2] for key in keys) == [":", ":q", ":q.dead"]
    assert redis_broker.command("XPENDING", f"mqasync:{{{exchange}}}:q", "mqasync").split() == ["0"]
    assert int(redis_broker.command("MEMORY", "USAGE", f"mqasync:{{{exchange}}}:q")) < 10_000


async def test_a_settlement_after_the_lease_takes_nothing_that_is_new(
    server: DurableRedis, exchange: str, connect: Connect
) -> None:
    """Softened: who does not extend what it holds may get it again, and settle it twice."""
    transport = await connect(f"{server.url}?lease=0.2")
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(1)])
    subscription = await transport.subscribe(exchange, "q", 10)
    first = await receive(subscription, 1)
    await asyncio.sleep(0.3)
    again = await subscription.receive(10, PATIENCE)
    await subscription.ack(first)
    await transport.publish(exchange, [message(2)])
    await subscription.ack(again)
    assert numbers(await subscription.receive(10, PATIENCE)) == [2]
