"""The redis transport keeps the contract; what it refuses, warns of, and does when Redis does not do as it should."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from mqasync import BrokerLost, ConfigurationError, Message
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.errors import BrokerBusy, BrokerRefused
from mqasync.message import new_id
from mqasync.transport import DEAD, Features, Transport
from mqasync.transports import load

from .brokers import Redis, free_port
from .conformance import Conformance, message, numbers, receive
from .conftest import required
from .servers.redis import DURABLE, DurableRedis, durable_redis
from .waiting import PATIENCE, depth, until


class TestRedis(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self, redis_broker: DurableRedis) -> str:
        return f"{redis_broker.url}?lease=3"


@pytest.fixture(scope="module")
def private_redis() -> Iterator[DurableRedis]:
    """One whose settings a test may change and has to change back."""
    with required(durable_redis()) as server:
        yield server


@pytest.fixture
def server(private_redis: DurableRedis) -> Iterator[DurableRedis]:
    yield private_redis
    for name, value in {"maxmemory": "0", "maxmemory-policy": "noeviction", "appendfsync": "always"}.items():
        private_redis.command("CONFIG", "SET", name, value)
    private_redis.command("ACL", "DELUSER", "guest")


@pytest.fixture
def exchange() -> str:
    return f"E{new_id()}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Transport]:
    transport = load(url)
    try:
        await transport.open()
        yield transport
    finally:
        await transport.close()


# URL and options


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis:", "a Redis URL names a host: redis://user:password@host:port/database"),
        ("redis://:hidden@/0", "a Redis URL names a host"),
        ("redis://:hidden@host:port/0", "a port is a number up to 65535"),
        ("redis://:hidden@host/cth", "'cth' is not a database of Redis: they are numbered from 0"),
        ("redis://:hidden@host/-1", "'-1' is not a database"),
        ("redis://:hidden@host/0?lease=soon", "lease='soon' in a Redis URL is not a number of seconds of at least 0.1"),
        ("redis://:hidden@host/0?lease=0", "lease='0' in"),
        ("redis://:hidden@host/0?lease=inf", "lease='inf' in"),
        ("redis://:hidden@host/0?protocol=3", "'protocol' cannot be set in a Redis URL; there are: lease, cafile"),
        ("rediss://:hidden@host/0?ssl_cert_reqs=none", "'ssl_cert_reqs' cannot be set in a Redis URL"),
        ("redis://:hidden@host/0?cafile=ca.pem", "cafile is for rediss://; a redis:// URL connects without encryption"),
        ("rediss://:hidden@host/0?keyfile=k", "keyfile is the private key of a certificate; certfile has to name that"),
    ],
)
def test_a_wrong_url_is_refused_by_name_and_its_password_is_not_told(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load(url)
    assert problem in str(refusal.value)
    assert "hidden" not in str(refusal.value)


def test_an_option_is_refused_with_its_place() -> None:
    with pytest.raises(ConfigurationError, match="unknown option 'maxlen': Redis has no options") as refusal:
        load("redis://host", {"CTH": {"maxlen": 3}})
    assert refusal.value.keys == ("exchanges", "CTH", "options", "maxlen")


def test_nothing_that_prints_a_transport_shows_its_password() -> None:
    transport = load("redis://user:hidden@host/0")
    assert "hidden" not in repr(transport) + repr(vars(transport))


# what the server is like


async def test_a_server_that_loses_nothing_is_not_warned_of(server: DurableRedis) -> None:
    async with opened(server.url) as transport:
        assert transport.warning == ""


async def test_a_server_without_a_file_is_warned_of(redis_server: Redis) -> None:
    async with opened(redis_server.url) as transport:
        assert "its end loses them: set appendonly to yes" in transport.warning


@pytest.mark.parametrize(
    ("setting", "value", "warning"),
    [
        ("appendfsync", "everysec", "its disk is written once a second (appendfsync everysec), and a power cut loses"),
        ("appendfsync", "no", "its disk is written when the system likes (appendfsync no)"),
        ("maxmemory-policy", "allkeys-lru", "throws messages away when its memory is full (maxmemory-policy allkeys"),
    ],
)
async def test_a_server_that_may_lose_messages_is_warned_of(
    server: DurableRedis, setting: str, value: str, warning: str
) -> None:
    server.command("CONFIG", "SET", setting, value)
    async with opened(server.url) as transport:
        assert warning in transport.warning


async def test_nobody_there_is_lost_and_a_wrong_password_or_database_is_refused(server: DurableRedis) -> None:
    server.command("ACL", "SETUSER", "guest", "on", ">right")
    refused = {
        f"redis://guest:hidden@127.0.0.1:{server.port}/0": "invalid username-password pair",
        f"redis://127.0.0.1:{server.port}/99": "DB index is out of range",
        f"redis://guest:right@127.0.0.1:{server.port}/0": "no permission",
    }
    for url, problem in refused.items():
        with pytest.raises(BrokerRefused, match=f"(?i){problem}") as refusal:
            async with opened(url) as transport:
                await transport.declare("CTH", "q")
        assert "hidden" not in str(refusal.value)
    with pytest.raises(BrokerLost):
        async with opened(f"redis://127.0.0.1:{free_port()}/0"):
            pass


async def test_a_user_who_may_only_use_the_keys_can_work(server: DurableRedis, exchange: str) -> None:
    # Given a user who may neither ask the server about itself nor wake others
    server.command("ACL", "SETUSER", "guest", "on", ">right", "~mqasync:*", "+@all", "-@dangerous", "-@admin")
    async with opened(f"redis://guest:right@127.0.0.1:{server.port}/0") as transport:
        assert "does not tell this user how it keeps messages" in transport.warning
        await transport.declare(exchange, "q")
        subscription = await transport.subscribe(exchange, "q", 10)
        receiving = asyncio.create_task(subscription.receive(10, 60.0))
        await asyncio.sleep(0.05)
        # When it delays something while it waits, that comes
        await transport.send(exchange, "q", [message(1)], delay=0.1)
        assert numbers(await asyncio.wait_for(receiving, PATIENCE)) == [1]
        # And closing ends a wait
        receiving = asyncio.create_task(subscription.receive(10, 60.0))
        await asyncio.sleep(0.05)
        await subscription.close()
        assert await asyncio.wait_for(receiving, 5) == []


async def test_without_memory_nothing_is_published_and_consumers_go_on(server: DurableRedis, exchange: str) -> None:
    async with opened(server.url) as transport:
        for id in ("q", "other"):
            await transport.declare(exchange, id)
        await transport.publish(exchange, [message(n) for n in range(3)])
        subscription = await transport.subscribe(exchange, "q", 10)
        held = await receive(subscription, 3)
        server.command("CONFIG", "SET", "maxmemory", "1")
        # When there is no memory, publishing is put off, for all ids
        with pytest.raises(BrokerBusy, match="it takes no messages"):
            await transport.publish(exchange, [message(3)])
        # And what is in hand can be settled in every way
        await subscription.ack(held[:1])
        await subscription.retry(held[1], 0.1)
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


async def test_deleted_queues_and_flushed_scripts_are_lost_and_made_again(server: DurableRedis, exchange: str) -> None:
    async with opened(server.url) as transport:
        await transport.declare(exchange, "q")
        subscription = await transport.subscribe(exchange, "q", 10)
        receiving = asyncio.create_task(subscription.receive(10, PATIENCE))
        server.command("FLUSHALL")
        with pytest.raises(BrokerLost):
            await receiving
        with pytest.raises(BrokerLost, match="no queue"):
            await transport.subscribe(exchange, "q", 10)
        with pytest.raises(BrokerLost, match="no queue of 'q'"):
            await transport.send(exchange, "q", [message(1)])
        server.command("SCRIPT", "FLUSH")
        with pytest.raises(BrokerLost):
            await transport.declare(exchange, "q")
    async with opened(server.url) as transport:
        await transport.declare(exchange, "q")
        await transport.publish(exchange, [message(1)])
        assert numbers(await receive(await transport.subscribe(exchange, "q", 10), 1)) == [1]


# messages


async def test_a_delayed_message_ends_a_long_wait_soon_after_it_is_due(
    redis_broker: DurableRedis, exchange: str
) -> None:
    async with opened(redis_broker.url) as transport, opened(redis_broker.url) as other:
        await transport.declare(exchange, "q")
        subscription = await transport.subscribe(exchange, "q", 10)
        for sender, late in ((transport, 0.15), (other, 1.3)):
            receiving = asyncio.create_task(subscription.receive(10, PATIENCE))
            await asyncio.sleep(0.05)
            started = time.monotonic()
            await sender.send(exchange, "q", [message(1)], delay=0.2)
            delivery = (await receiving)[0]
            assert 0.2 <= time.monotonic() - started <= 0.2 + late
            await subscription.ack([delivery])


async def test_what_a_stranger_wrote_is_received_as_unreadable_and_can_be_settled(
    redis_broker: DurableRedis, exchange: str
) -> None:
    async with opened(redis_broker.url) as transport:
        await transport.declare(exchange, "q")
        stream = f"mqasync:{{{exchange}}}:q"
        redis_broker.command("XADD", stream, "*", "body", "hello")
        redis_broker.command("XADD", stream, "*", "envelope", "not JSON", "returned", "often", "body", "hello")
        subscription = await transport.subscribe(exchange, "q", 10)
        await subscription.release(await receive(subscription, 2))
        first, second = await receive(subscription, 2)
        assert (first.message.body, second.message.body) == (b"hello", b"hello")
        assert "no field 'envelope'" in first.unreadable
        assert "cannot be read" in second.unreadable
        await subscription.ack([first, second])
        assert await depth(transport, exchange, "q") == 0


async def test_nothing_is_left_in_redis_of_messages_and_consumers_that_are_gone(
    redis_broker: DurableRedis, exchange: str
) -> None:
    async with opened(redis_broker.url) as transport:
        await transport.declare(exchange, "q")
        await transport.declare(exchange, "q" + DEAD, bound=False)
        await transport.publish(exchange, [Message(body=b"x" * 1000, exchange=exchange) for _ in range(300)])
        subscription = await transport.subscribe(exchange, "q", 1000)
        held = await receive(subscription, 300, limit=1000)
        for delivery in held[:100]:
            await subscription.retry(delivery, 0.0)
        await subscription.ack(held[100:] + await receive(subscription, 100))
    keys = redis_broker.command("KEYS", f"mqasync:{{{exchange}}}*").split()
    assert sorted(key.partition("}")[2] for key in keys) == ["", ":q", ":q.dead", ":q:delayed"]
    assert redis_broker.command("XINFO", "CONSUMERS", f"mqasync:{{{exchange}}}:q", "mqasync") == ""
    assert int(redis_broker.command("MEMORY", "USAGE", f"mqasync:{{{exchange}}}:q")) < 10_000


async def test_a_queue_expires_not_before_its_last_subscription_and_leaves_nothing_in_redis(
    redis_broker: DurableRedis, exchange: str
) -> None:
    def left() -> list[str]:
        return sorted(key.partition("}")[2] for key in redis_broker.command("KEYS", f"mqasync:{{{exchange}}}*").split())

    async with opened(redis_broker.url) as transport, opened(redis_broker.url) as other:
        # Given one whose only consumer is too busy to receive, and that has something delayed
        await transport.declare(exchange, "q", expires=0.5)
        subscription = await other.subscribe(exchange, "q", 1)
        await transport.publish(exchange, [message(1), message(2)])
        await receive(subscription, 1)
        await transport.send(exchange, "q", [message(3)], delay=60.0)
        await asyncio.sleep(1.0)
        stats = await transport.stats(exchange, "q")
        assert stats and (stats.waiting, stats.delayed) == (2, 1)
        # When that goes, Redis drops the queue
        await other.close()
        await until(lambda: ":q" not in left(), "it has expired")
        assert await transport.stats(exchange, "q") is None
        with pytest.raises(BrokerLost, match="no queue"):
            await transport.send(exchange, "q", [message(4)])
    assert left() == []


async def test_a_queue_that_is_declared_again_without_an_end_does_not_expire(
    redis_broker: DurableRedis, exchange: str
) -> None:
    async with opened(redis_broker.url) as transport:
        await transport.declare(exchange, "q", expires=0.3)
        await transport.declare(exchange, "q", bound=False)
        await transport.publish(exchange, [message(1)])
        await asyncio.sleep(0.5)
        assert await depth(transport, exchange, "q") == 1


async def test_a_settlement_that_failed_makes_the_message_come_back(server: DurableRedis, exchange: str) -> None:
    async with opened(server.url) as transport:
        await transport.declare(exchange, "q")
        await transport.publish(exchange, [message(1)])
        subscription = await transport.subscribe(exchange, "q", 10)
        held = await receive(subscription, 1)
        server.command("SCRIPT", "FLUSH")
        with pytest.raises(BrokerLost):
            await subscription.ack(held)
        # When settling is possible again (who connects loads the scripts)
        async with opened(server.url):
            assert numbers(await receive(subscription, 1)) == [1]


async def test_a_process_that_does_not_settle_in_time_loses_nothing_to_itself(
    server: DurableRedis, exchange: str
) -> None:
    """It still has the delivery in hand: a second one would be handled beside the first."""
    async with opened(f"{server.url}?lease=0.2") as transport:
        await transport.declare(exchange, "q")
        await transport.publish(exchange, [message(1)])
        subscription = await transport.subscribe(exchange, "q", 10)
        held = await receive(subscription, 1)
        assert await subscription.receive(10, 1.5) == []
        await subscription.ack(held)
        assert await depth(transport, exchange, "q") == 0


# TLS


class TLS:
    """A Redis that speaks TLS only, and the certificates."""

    def __init__(self, server: DurableRedis, port: int, directory: Path) -> None:
        self.server, self.directory = server, directory
        self.url = f"rediss://127.0.0.1:{port}/0"
        self.ours = f"cafile={directory}/ca.pem&certfile={directory}/client.pem"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLS]:
    directory, port = tmp_path_factory.mktemp("certificates"), free_port()
    for name in ("", "other-"):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(directory / f"{name}ca.pem")
        for owner in ("127.0.0.1", "client@example.org"):
            path = directory / f"{name}{owner.split('@')[0]}.pem"
            authority.issue_cert(owner).private_key_and_cert_chain_pem.write_to_path(path)
    files = {"ca-cert-file": "ca.pem", "cert-file": "127.0.0.1.pem", "key-file": "127.0.0.1.pem"}
    arguments = [word for name, file in files.items() for word in (f"--tls-{name}", str(directory / file))]
    with required(durable_redis(*DURABLE, "--tls-port", str(port), *arguments)) as server:
        yield TLS(server, port, directory)


async def test_messages_pass_over_tls_with_both_certificates(tls: TLS, exchange: str) -> None:
    async with opened(f"{tls.url}?{tls.ours}") as transport:
        await transport.declare(exchange, "q")
        subscription = await transport.subscribe(exchange, "q", 10)
        await transport.publish(exchange, [message(1)])
        assert numbers(await receive(subscription, 1)) == [1]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("{url}", "its certificate is not trusted: self-signed certificate in certificate chain"),
        ("{url}?cafile={directory}/other-ca.pem&certfile={directory}/client.pem", "its certificate is not trusted"),
        ("{localhost}?{ours}", "its certificate is not trusted: Hostname mismatch"),
    ],
)
async def test_a_tls_server_that_is_not_the_right_one_is_refused(tls: TLS, url: str, problem: str) -> None:
    values = {"url": tls.url, "ours": tls.ours, "directory": tls.directory}
    values["localhost"] = tls.url.replace("127.0.0.1", "localhost")
    with pytest.raises(BrokerRefused, match=problem):
        async with opened(url.format(**values)):
            pass


async def test_without_our_certificate_a_server_that_wants_one_is_not_reached(tls: TLS) -> None:
    """It says so after its part of the handshake, and resets the connection: the reset may come first."""
    with pytest.raises((BrokerRefused, BrokerLost), match=r"TLS handshake: certificate required|reset|[Cc]losed"):
        async with opened(f"{tls.url}?cafile={tls.directory}/ca.pem"):
            pass


async def test_a_file_that_is_none_is_the_users_mistake(tls: TLS) -> None:
    with pytest.raises(ConfigurationError, match="cafile is 'nowhere', which is not a file"):
        async with opened(f"{tls.url}?cafile=nowhere"):
            pass


async def test_the_server_gone_is_noticed_by_who_waits(exchange: str) -> None:
    with required(durable_redis()) as server:
        transport = load(server.url)
        await transport.open()
        await transport.declare(exchange, "q")
        subscription = await transport.subscribe(exchange, "q", 10)
        receiving = asyncio.create_task(subscription.receive(10, 60.0))
        await asyncio.sleep(0.05)
        server.kill()
        await until(receiving.done, "it is noticed", 3.0)
        with pytest.raises(BrokerLost):
            await receiving
        with pytest.raises(BrokerLost):
            await transport.publish(exchange, [message(1)])
        started = time.monotonic()
        await transport.close()
        assert time.monotonic() - started < 1
