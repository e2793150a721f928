"""Exchanges and queues that exist are used as they are: RabbitMQ's topics, headers, binding keys, foreign queues."""

import asyncio
import json
import re
import runpy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import nats
import pytest
import stompman
from aio_pika.abc import AbstractChannel
from redis.asyncio import Redis

from mqasync import BrokerRefused, Message, Reject, Retry, Unroutable, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import QueueSettings, Settings, load_settings
from mqasync.operate.checks import ERROR, OK, Checks
from mqasync.service.discovery import Service
from mqasync.transport import DEAD

from .brokers import RabbitMQ
from .commands import CommandLine
from .conftest import Connect
from .servers.activemq import ActiveMQ
from .servers.nats import NATS
from .servers.redis import DurableRedis
from .test_documents import BLOCK, ROOT
from .test_rabbitmq import arguments_of
from .waiting import PATIENCE, depth, until
from .working import dead_letters, idle, until_depth, working


@asynccontextmanager
async def stranger(url: str) -> AsyncIterator[AbstractChannel]:
    """A channel of somebody who does not use mqasync."""
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel()


@asynccontextmanager
async def configured(directory: Path, url: str, configuration: dict[str, Any]) -> AsyncIterator[Brokers]:
    """What a process has with that config.yml."""
    file = directory / "config.yml"
    file.write_text(json.dumps({"brokers": {"main": url}} | configuration))
    brokers = Brokers(load_settings(str(file)))
    yield brokers
    await brokers.close()


async def test_a_queue_that_exists_is_consumed_as_it_is_and_what_fails_goes_to_queues_of_our_own(
    rabbitmq_server: RabbitMQ, exchange: str, tmp_path: Path
) -> None:
    legacy = f"legacy.{exchange}"
    async with stranger(rabbitmq_server.url) as channel:
        # Given a topic exchange and a classic queue with priorities, which somebody else has made
        events = await channel.declare_exchange(exchange, "topic", durable=True)
        queue = await channel.declare_queue(legacy, durable=True, arguments={"x-max-priority": 5})
        await queue.bind(events, "alert.#")
        before = arguments_of(rabbitmq_server, legacy)
        bindings = rabbitmq_server.control("list_bindings")
        handled: list[tuple[Any, int, str | None]] = []

        @consumer(exchange=exchange, id="work", backoff=0.01)
        async def work(body: dict[str, str], message: Message) -> None:
            handled.append((body["do"], message.attempt, message.key))
            match body["do"], message.attempt:
                case "fail", 1:
                    raise ValueError("once")
                case "wait", 1 if len([one for one in handled if one[0] == "wait"]) == 1:
                    raise Retry(0.1)
                case "reject", _:
                    raise Reject("never")

        configuration = {
            "exchanges": {exchange: {"declare": False}},
            "consumers": {f"{exchange}/work": {"queue": legacy}},
        }
        async with configured(tmp_path, rabbitmq_server.url, configuration) as brokers:
            async with working(brokers, brokers.settings.configured(work)) as (working_on,):
                # When it publishes what succeeds, what fails once, what has to wait and what is hopeless
                for do in ("well", "fail", "wait", "reject"):
                    body = aio_pika.Message(json.dumps({"do": do}).encode())
                    await events.publish(body, f"alert.{do}")
                await until(lambda: len(handled) == 6, "all are handled")
                await until_depth(working_on, 0)
                (dead,) = await dead_letters(brokers, exchange, "work", 1)
    # Then each went its way, with the routing key of its publisher as key
    assert sorted(handled) == [
        ("fail", 1, "alert.fail"),
        ("fail", 2, "alert.fail"),
        ("reject", 1, "alert.reject"),
        ("wait", 1, "alert.wait"),
        ("wait", 1, "alert.wait"),
        ("well", 1, "alert.well"),
    ]
    assert (dead.body, dead.headers["dead-reason"]) == (b'{"do": "reject"}', "rejected")
    # And nothing of theirs has changed
    assert arguments_of(rabbitmq_server, legacy) == before
    theirs = [line for line in rabbitmq_server.control("list_bindings").splitlines() if line.startswith(exchange)]
    assert theirs == [line for line in bindings.splitlines() if line.startswith(exchange)]


async def test_a_key_of_redis_that_is_no_stream_is_named(redis_broker: DurableRedis, connect: Connect) -> None:
    redis_broker.command("SET", "legacy:text", "1")
    transport = await connect(redis_broker.url, {"events": {"queues": {"q": {"queue": "legacy:text"}}}})
    with pytest.raises(BrokerRefused, match="there is no stream 'legacy:text'"):
        await transport.declare("events", "q")


async def test_dead_letters_are_shown_also_where_what_others_made_is_gone(
    redis_broker: DurableRedis, connect: Connect, cli: CommandLine, exchange: str
) -> None:
    transport = await connect(redis_broker.url)
    await transport.declare(exchange, "work" + DEAD, bound=False)
    await transport.send(exchange, "work" + DEAD, [Message(body=b"1", exchange=exchange, id="kept")])
    cli.environment["MQASYNC_BROKER"] = redis_broker.url
    cli.file("config.yml", json.dumps({"consumers": {f"{exchange}/work": {"queue": "not.there"}}}))
    done = await asyncio.to_thread(cli.run, "dead", "list", exchange, "work", "--json")
    assert "kept" in done.stdout, done.stderr


async def test_who_publishes_where_only_a_queue_of_others_is_consumed_is_told_that_nothing_is_bound(
    rabbitmq_server: RabbitMQ, exchange: str, tmp_path: Path
) -> None:
    configuration = {"consumers": {f"{exchange}/q": {"queue": f"legacy.{exchange}"}}}
    async with stranger(rabbitmq_server.url) as channel:
        await channel.declare_queue(f"legacy.{exchange}")
        async with (
            configured(tmp_path, rabbitmq_server.url, configuration) as brokers,
            working(brokers, idle(exchange)),
        ):
            with pytest.raises(Unroutable):
                await brokers.publish(Message(body=b"1", exchange=exchange))


Send = Callable[[bytes, dict[str, str]], Awaitable[object]]
GZIP = b"\x1f\x8b\x08\x00"


async def go_their_ways(brokers: Brokers, exchange: str, send: Send) -> None:
    """What a stranger sends is handled, comes again or is buried by consumer "q", with the headers that it has."""
    handled: list[tuple[Any, int]] = []

    @consumer(exchange=exchange, id="q", backoff=0.01)
    async def handler(body: dict[str, str], message: Message) -> None:
        assert message.headers == {"do": body["do"]}
        handled.append((body["do"], message.attempt))
        match body["do"], message.attempt:
            case "fail", 1:
                raise ValueError("once")
            case "wait", 1 if handled.count(("wait", 1)) == 1:
                raise Retry(0.1)
            case "reject", _:
                raise Reject("never")

    async with working(brokers, handler) as (channel,):
        for do in ("well", "fail", "wait", "reject"):
            await send(json.dumps({"do": do}).encode(), {"do": do})
        await send(GZIP, {"do": "unpack"})
        await until(lambda: len(handled) == 6, "all are handled")
        await until_depth(channel, 0)
        dead = await dead_letters(brokers, exchange, "q", 2)
    assert sorted(handled) == [("fail", 1), ("fail", 2), ("reject", 1), ("wait", 1), ("wait", 1), ("well", 1)]
    gzip, rejected = sorted(dead, key=lambda one: one.body)
    assert gzip.headers["dead-message"].endswith(": it is compressed with gzip")
    assert (gzip.body, gzip.headers["do"]) == (GZIP, "unpack")
    assert (rejected.headers["dead-reason"], rejected.headers["do"]) == ("rejected", "reject")


async def test_a_queue_of_activemq_that_exists_is_consumed_with_text_and_bytes_in_it(
    activemq_server: ActiveMQ, exchange: str, tmp_path: Path
) -> None:
    legacy = f"legacy.{exchange}"
    configuration = {"consumers": {f"{exchange}/q": {"queue": legacy}}}
    async with stompman.Client([stompman.ConnectionParameters("127.0.0.1", activemq_server.port, "", "")]) as client:

        async def send(body: bytes, headers: dict[str, str]) -> None:
            bytes = headers["do"] in ("fail", "unpack")  # others are text messages
            await client.send(body, f"/queue/{legacy}", headers=headers, add_content_length=bytes)

        async def show(frame: stompman.MessageFrame) -> None: ...

        looking = await client.subscribe(
            f"/queue/{legacy}", show, on_suppressed_exception=print, receipt_timeout=PATIENCE
        )
        await looking.unsubscribe()  # who looks makes it
        async with configured(tmp_path, activemq_server.url, configuration) as brokers:
            await go_their_ways(brokers, exchange, send)


async def test_a_stream_of_redis_that_exists_is_read_by_a_group_of_its_own_and_nothing_of_it_is_deleted(
    redis_broker: DurableRedis, exchange: str, tmp_path: Path
) -> None:
    client: Any = Redis.from_url(redis_broker.url)
    async with client as stranger:
        stream, configuration = f"legacy:{exchange}", {"consumers": {f"{exchange}/q": {"queue": f"legacy:{exchange}"}}}
        before = await stranger.xadd(stream, {"body": "before"})
        async with configured(tmp_path, redis_broker.url, configuration) as brokers:
            await go_their_ways(
                brokers, exchange, lambda body, headers: stranger.xadd(stream, {**headers, "body": body})
            )
            # a stranger's entry without a body, which is held by a process that dies, comes again
            transport = await brokers.route(exchange).connected()
            entry = await stranger.xadd(stream, {"kind": "url", "raw": GZIP})
            await stranger.xreadgroup(f"{exchange}.q", "mqasync", {stream: ">"})
            await stranger.xclaim(stream, f"{exchange}.q", "mqasync", 0, [entry], idle=60_000)
            assert await depth(transport, exchange, "q") == 1
            subscription = await transport.subscribe(exchange, "q", 10)
            (delivery,) = await subscription.receive(10, 1.0)
            await subscription.extend([delivery])
            await subscription.release([delivery])
            (delivery,) = await subscription.receive(10, 1.0)
            assert json.loads(delivery.message.body) == {"kind": "url", "raw": "\x1f\\x8b\x08\x00"}
            assert (delivery.message.id, delivery.message.headers) == (entry.decode(), {})
            assert delivery.message.time == int(entry.split(b"-")[0]) / 1000
            await subscription.ack([delivery])
            # Then nobody else publishes there, and what somebody has deleted meanwhile is not waited for
            with pytest.raises(Unroutable):
                await brokers.publish(Message(body=b"1", exchange=exchange))
            await stranger.xdel(stream, before, await stranger.xadd(stream, {"body": "deleted"}))
            assert await depth(transport, exchange, "q") == 0
        assert await stranger.xlen(stream) == 6
        (group,) = await stranger.xinfo_groups(stream)
        assert (group["name"], group["pending"]) == (f"{exchange}.q".encode(), 0)
        assert await stranger.xlen(f"mqasync:{{{exchange}}}:q") == 0


async def test_a_consumer_of_nats_that_exists_is_asked_as_it_is_and_nothing_of_it_is_changed(
    nats_server: NATS, exchange: str, tmp_path: Path
) -> None:
    async with await nats.connect(nats_server.url) as client:
        # Given a stream and a consumer whose leases are short and who hands out two at a time
        stranger = client.jetstream()
        await stranger.add_stream(name=exchange, subjects=[f"{exchange}.>"])
        before = await stranger.add_consumer(
            exchange, durable_name="work", filter_subject=f"{exchange}.high", ack_wait=0.6, max_ack_pending=2
        )
        configuration = {"consumers": {f"{exchange}/q": {"queue": f"{exchange}/work"}}}
        async with configured(tmp_path, nats_server.url, configuration) as brokers:
            await stranger.publish(f"{exchange}.low", b"for nobody")
            await go_their_ways(
                brokers, exchange, lambda body, headers: stranger.publish(f"{exchange}.high", body, headers=headers)
            )
            # And a handler takes longer than a lease, then nobody else gets the message
            handled: list[int] = []

            @consumer(exchange=exchange, id="q")
            async def slow(body: int) -> None:
                handled.append(body)
                await asyncio.sleep(1.5)

            async with working(brokers, slow) as (channel,):
                await stranger.publish(f"{exchange}.high", b"1")
                await until(lambda: channel.counts.handled == 1, "the slow one is handled")
                await until_depth(channel, 0)
            assert handled == [1]
            with pytest.raises(Unroutable):
                await brokers.publish(Message(body=b"1", exchange=exchange))
        after = await stranger.consumer_info(exchange, "work")
        assert (after.config, after.num_ack_pending, after.num_pending) == (before.config, 0, 0)
        assert (await stranger.stream_info(exchange)).state.messages == 7


async def test_a_consumer_of_nats_that_would_lose_messages_is_one_sentence(
    nats_server: NATS, cli: CommandLine, exchange: str
) -> None:
    async with await nats.connect(nats_server.url) as client:
        await client.jetstream().add_stream(name=exchange)
        await client.jetstream().add_consumer(exchange, durable_name="work", max_deliver=5)
        cli.environment["MQASYNC_BROKER"] = nats_server.url
        cli.file("mine.py", SERVICE.replace("EXCHANGE", exchange))
        cli.file("config.yml", json.dumps({"consumers": {f"{exchange}/work": {"queue": f"{exchange}/work"}}}))
        done = await asyncio.to_thread(cli.run, "run", "mine")
    assert done.returncode == 2
    assert f"{exchange}/work would lose messages: it exists with max_deliver 5 instead of -1" in done.stderr
    assert "Traceback" not in done.stderr


async def test_binding_keys_choose_what_a_consumer_gets_and_the_key_of_an_output_is_its_routing_key(
    rabbitmq_server: RabbitMQ, exchange: str, tmp_path: Path
) -> None:
    got: dict[str, list[str | None]] = {"alerts": [], "high": []}

    @consumer(exchange=exchange, id="alerts")
    async def alerts(body: dict[str, Any], message: Message) -> None:
        got["alerts"].append(message.key)

    @consumer(exchange=exchange, id="high")
    async def high(body: dict[str, Any], message: Message) -> None:
        got["high"].append(message.key)

    consumers = {f"{exchange}/alerts": {"bind": ["alert.#"]}, f"{exchange}/high": {"bind": ["*.high", "audit"]}}
    configuration = {"exchanges": {exchange: {"options": {"type": "topic"}}}, "consumers": consumers}
    async with configured(tmp_path, rabbitmq_server.url, configuration) as brokers, working(brokers, alerts, high):
        keys = ["alert.low", "alert.high", "metric.high", "audit", "nobody", None]
        messages = [Message(body=b"{}", exchange=exchange, key=key) for key in keys]
        # When they are published at once, then what nobody is bound for is refused, and nothing else
        results = await asyncio.gather(*map(brokers.publish, messages), return_exceptions=True)
        assert [isinstance(result, Unroutable) for result in results] == [False] * 4 + [True] * 2
        await until(lambda: len(got["alerts"]) == 2 and len(got["high"]) == 3, "both have got theirs")
    assert got["alerts"] == ["alert.low", "alert.high"]
    assert sorted(map(str, got["high"])) == ["alert.high", "audit", "metric.high"]


async def test_the_page_about_it_is_true(rabbitmq_server: RabbitMQ, exchange: str, tmp_path: Path) -> None:
    """Its configuration and its service, with names that nobody else uses."""
    page = (ROOT / "docs" / "existing.md").read_text()
    for name in ("events", "alerts", "legacy"):
        page = re.sub(rf"\b{name}\b", f"{exchange}{name}", page)
    files = {block["file"]: block["text"] for block in BLOCK.finditer(page) if block["file"]}
    url = "amqp://guest:${PASSWORD:guest}@localhost/"
    (tmp_path / "config.yml").write_text(files["config.yml"].replace(url, rabbitmq_server.url))
    (tmp_path / "work.py").write_text(files["work.py"])
    module = runpy.run_path(str(tmp_path / "work.py"))
    async with stranger(rabbitmq_server.url) as channel:
        queue = await channel.declare_queue(f"{exchange}legacy.work")
        events = await channel.declare_exchange(f"{exchange}events", "direct", durable=True)
        await queue.bind(events, "x")
        brokers = Brokers(load_settings(str(tmp_path / "config.yml")))
        async with working(brokers, module["work"], module["urgent"]) as (work, urgent):
            for severity in ("high", "low"):
                body = json.dumps({"kind": "scan", "severity": severity}).encode()
                await events.publish(aio_pika.Message(body), "x")
            await until(lambda: urgent.counts.handled == 1 and work.counts.failed == 1, "one is urgent, one for nobody")
        await brokers.close()


async def test_headers_and_direct_exchanges_route_as_they_do(
    rabbitmq_server: RabbitMQ, exchange: str, tmp_path: Path
) -> None:
    got: list[tuple[str, bytes]] = []

    @consumer(exchange=exchange, id="q")
    async def by_headers(body: bytes) -> None:
        got.append(("headers", body))

    direct = f"{exchange}.direct"

    @consumer(exchange=direct, id="q")
    async def by_key(body: bytes) -> None:
        got.append(("direct", body))

    exchanges = {exchange: {"options": {"type": "headers"}}, direct: {"options": {"type": "direct"}}}
    bind: Any = {"x-match": "any", "kind": "url", "source": "feed"}
    consumers: dict[str, Any] = {f"{exchange}/q": {"bind": [bind]}, f"{direct}/q": {"bind": ["url"]}}
    configuration = {"exchanges": exchanges, "consumers": consumers}
    async with configured(tmp_path, rabbitmq_server.url, configuration) as brokers:
        async with working(brokers, by_headers, by_key):
            await brokers.publish(Message(body=b"1", exchange=exchange, headers={"kind": "url"}))
            await brokers.publish(Message(body=b"2", exchange=direct, key="url"))
            with pytest.raises(Unroutable):
                await brokers.publish(Message(body=b"3", exchange=exchange, headers={"kind": "hash"}))
            with pytest.raises(Unroutable):
                await brokers.publish(Message(body=b"4", exchange=direct, key="hash"))
            await until(lambda: len(got) == 2, "both are handled")
    assert sorted(got) == [("direct", b"2"), ("headers", b"1")]


async def test_what_a_stranger_has_compressed_is_named_in_the_error(
    rabbitmq_server: RabbitMQ, exchange: str, tmp_path: Path
) -> None:
    @consumer(exchange=exchange, id="q")
    async def handler(body: dict[str, Any]) -> None: ...

    async with configured(tmp_path, rabbitmq_server.url, {}) as brokers, working(brokers, handler):
        async with stranger(rabbitmq_server.url) as channel:
            body = aio_pika.Message(b"\x1f\x8b\x08\x00", content_encoding="gzip")
            await (await channel.get_exchange(exchange)).publish(body, "")
        (dead,) = await dead_letters(brokers, exchange, "q", 1)
    assert dead.headers["dead-message"].endswith(": it is compressed with gzip")


SERVICE = """
from mqasync import consumer

@consumer(exchange="EXCHANGE", id="work")
async def work(body): ...
"""


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("missing", ["exchange", "queue"])
def test_what_is_to_exist_and_is_not_there_is_one_sentence(
    rabbitmq_server: RabbitMQ, cli: CommandLine, exchange: str, command: str, missing: str
) -> None:
    cli.environment["MQASYNC_BROKER"] = rabbitmq_server.url
    cli.file("mine.py", SERVICE.replace("EXCHANGE", exchange))
    what: dict[str, Any] = {"exchanges": {exchange: {"declare": False}}}
    if missing == "queue":
        what = {"consumers": {f"{exchange}/work": {"queue": "not.there"}}}
    cli.file("config.yml", json.dumps(what))
    done = cli.run(command, "mine")
    assert done.returncode == (2 if command == "run" else 1)
    name = "not.there" if missing == "queue" else f"{exchange}.work"
    said = f"there is no queue {name!r}, and config.yml says that mqasync must not create it"
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def url_of(request: pytest.FixtureRequest, aws: None) -> str:
    """That of the server whose fixture is the parameter."""
    return str(request.getfixturevalue(request.param).url)


def absent(what: str) -> tuple[str, str]:
    return ERROR, f"there is no {what}, and config.yml says that mqasync must not create it"


@pytest.mark.parametrize(
    "url_of, finding",
    [
        ("rabbitmq_server", absent("queue 'not.there'")),
        ("sqs_server", absent("queue 'not.there'")),
        ("activemq_server", absent("queue 'not.there'")),
        ("kafka_server", (OK, "will be created by the first run")),  # a group
        ("redis_broker", absent("stream 'not.there'")),
        ("nats_server", absent("queue 'not.there' of the form STREAM/CONSUMER")),
    ],
    indirect=["url_of"],
)
async def test_a_check_makes_nothing_where_config_yml_names_a_queue(
    url_of: str, connect: Connect, exchange: str, finding: tuple[str, str]
) -> None:
    transport = await connect(url_of)
    before = await transport.queues()
    queues = {f"{exchange}/q": QueueSettings(queue="not.there")}
    brokers = Brokers(Settings(brokers={"main": url_of}, queues=queues))
    found = await Checks([Service("mine", [idle(exchange)], [], None)], brokers, 10.0).run()
    await brokers.close()
    ((result, detail),) = [(one.result, one.detail) for one in found if one.about == f"{exchange}/q"]
    assert result == finding[0] and detail.endswith(finding[1])
    assert await transport.queues() == before
    assert [await transport.stats(exchange, id) for id in ("q", "q" + DEAD)] == [None, None]


@pytest.mark.parametrize(
    "url_of, name", [("sqs_server", "{}_-q"), ("activemq_server", "Consumer.q.VirtualTopic.{}")], indirect=["url_of"]
)
async def test_what_is_published_where_only_a_queue_of_others_is_consumed_is_unroutable_from_the_start(
    url_of: str, name: str, connect: Connect, exchange: str
) -> None:
    await (await connect(url_of)).declare(f"{exchange}theirs", "q")
    queues = {f"{exchange}/q": QueueSettings(queue=name.format(f"{exchange}theirs"))}
    brokers = Brokers(Settings(brokers={"main": url_of}, queues=queues))
    async with working(brokers, idle(exchange)):
        with pytest.raises(Unroutable):
            await brokers.publish(Message(body=b"1", exchange=exchange))
    await brokers.close()


def test_who_publishes_to_an_exchange_that_is_to_exist_is_told_that_it_does_not(
    rabbitmq_server: RabbitMQ, cli: CommandLine, exchange: str
) -> None:
    cli.environment["MQASYNC_BROKER"] = rabbitmq_server.url
    cli.file("config.yml", json.dumps({"exchanges": {exchange: {"declare": False}}}))
    done = cli.run("produce", "--exchange", exchange, "--id", "me", "{}")
    assert done.returncode == 2
    assert f"there is no exchange {exchange!r}, and config.yml says that mqasync must not create it" in done.stderr


@pytest.mark.parametrize(
    "configuration, said",
    [
        (
            {"exchanges": {"events": {"options": {"type": "tpic"}}}},
            "type is 'tpic'; it takes fanout, topic, direct, headers",
        ),
        ({"exchanges": {"events": {"declare": "perhaps"}}}, "it takes true or false"),
        ({"consumers": {"events/work": {"bind": "alert.#"}}}, "it takes a list of binding keys"),
        ({"consumers": {"events/work": {"queues": "x"}}}, "unknown key 'queues'"),
        (
            {"brokers": {"main": "sqlite:x.db"}, "consumers": {"events/work": {"queue": "x"}}},
            "SQLite has no 'queue'; it cannot use existing queues",
        ),
        (
            {"brokers": {"main": "sqlite:x.db"}, "exchanges": {"events": {"declare": False}}},
            "SQLite has no 'declare'; it cannot use existing queues",
        ),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(cli: CommandLine, configuration: dict[str, Any], said: str) -> None:
    cli.file("mine.py", SERVICE.replace("EXCHANGE", "events"))
    cli.file(
        "config.yml", json.dumps({"brokers": {"main": "amqp://guest:guest@127.0.0.1:1/"}} | configuration, indent=1)
    )
    done = cli.run("check", "mine")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and re.search("line|events", done.stderr) and len(done.stderr.splitlines()) == 1
