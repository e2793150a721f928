"""`dedup`: a repeated message is not handled again, and none is ever lost by it."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mqasync import BrokerLost, ConfigurationError, Consumer, Message, Reject, consumer
from mqasync.brokers.broker import Brokers
from mqasync.cli.run import summary
from mqasync.config.settings import Settings, load_settings
from mqasync.core import dedup as dedup_module
from mqasync.core.channel import Channel
from mqasync.core.dedup import SeenInProcess
from mqasync.handler import ConsumerOptions
from mqasync.masking import shown
from mqasync.message import new_id
from mqasync.service.discovery import Service
from mqasync.service.runner import Runner
from mqasync.transport import Seen
from mqasync.transports import load_seen

from .brokers import free_port
from .conftest import required
from .servers.redis import FORGETFUL, DurableRedis, durable_redis
from .waiting import depth, until
from .working import idle, working

REFUSING = f"redis://user:hidden@127.0.0.1:{free_port()}/0"  # nobody listens there

Remember = Callable[..., Seen]
"""What the fixture is: a call with ttl and id that gives a memory."""


@pytest.fixture(params=["process", "redis"])
def remember(request: pytest.FixtureRequest, exchange: str) -> Remember:
    if request.param == "process":
        return lambda ttl=60.0, id="q": SeenInProcess(ttl)
    server: DurableRedis = request.getfixturevalue("redis_broker")
    return lambda ttl=60.0, id="q": load_seen(server.url, exchange, id, ttl)


@pytest.fixture
def private_redis() -> Iterator[DurableRedis]:
    with required(durable_redis(*FORGETFUL)) as server:
        yield server


@pytest.fixture
def url() -> str:
    return f"memory:{new_id()}"


async def publish_ids(brokers: Brokers, exchange: str, *ids: str) -> None:
    await asyncio.gather(*(brokers.publish(Message(body=b"{}", exchange=exchange, id=id)) for id in ids))


def settled(channel: Channel) -> int:
    counts = channel.counts
    return counts.handled + counts.duplicates + counts.dead_lettered


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_repeated_message_is_acknowledged_and_not_handled_again(
    brokers: Brokers, exchange: str, remember: Remember
) -> None:
    handled: list[str] = []

    @consumer(exchange=exchange, id="q")
    async def handler(body: dict[str, Any], message: Message) -> None:
        handled.append(message.id)

    async with working(brokers, handler, seen=remember()) as (channel,):
        for n, id in enumerate(["a", "b", "a", "a"], start=1):
            await publish_ids(brokers, exchange, id)
            await until(lambda n=n: settled(channel) == n, "it is settled")  # type: ignore[misc]
    assert handled == ["a", "b"]
    assert (channel.counts.handled, channel.counts.duplicates) == (2, 2)
    assert await channel.depth() == 0


async def test_without_dedup_a_repeated_message_is_handled_again(brokers: Brokers, exchange: str) -> None:
    async with working(brokers, idle(exchange)) as (channel,):
        await publish_ids(brokers, exchange, "a", "a")
        await until(lambda: channel.counts.handled == 2, "both are handled")


@pytest.mark.parametrize("end", ["fails", "is rejected", "is not confirmed", "is stopped"])
async def test_what_was_not_handled_to_its_end_is_not_remembered(
    end: str, brokers: Brokers, exchange: str, remember: Remember
) -> None:
    begun: list[str] = []

    async def confirm(message: Message) -> None:
        if end == "is not confirmed" and len(begun) == 1:
            raise BrokerLost(end)

    @consumer(exchange=exchange, id="q", to="anywhere", backoff=0.01)
    async def handler(body: dict[str, Any], message: Message) -> dict[str, Any]:
        begun.append(message.id)
        if len(begun) == 1 and end in ("fails", "is rejected"):
            raise Reject(end) if end == "is rejected" else ValueError(end)
        if len(begun) == 1 and end == "is stopped":
            await asyncio.Event().wait()
        return body

    # Given a message whose first attempt ends so
    seen = remember()
    async with working(brokers, handler, seen=seen, publish=confirm, grace=0.0) as (first,):
        await publish_ids(brokers, exchange, "a")
        await until(lambda: begun == ["a"] if end == "is stopped" else settled(first) == 1, "the attempt has ended")
    async with working(brokers, handler, seen=seen, publish=confirm) as (channel,):
        # When it comes again, then it is handled
        if end == "is rejected":
            await publish_ids(brokers, exchange, "a")
        await until(lambda: first.counts.handled + channel.counts.handled == 1, "it is handled")
        # And from then on it is known
        await publish_ids(brokers, exchange, "a")
        await until(lambda: channel.counts.duplicates == 1, "it is known")
    assert begun == ["a", "a"]


async def test_an_id_is_remembered_after_the_handler_and_before_the_acknowledgement(
    brokers: Brokers, exchange: str
) -> None:
    order: list[str] = []

    class Recording(SeenInProcess):
        async def add(self, ids: Sequence[str]) -> None:
            order.append("remembered")
            await super().add(ids)

    @consumer(exchange=exchange, id="q")
    async def handler(body: dict[str, Any]) -> None:
        order.append("handled")

    async with working(brokers, handler, seen=Recording(60.0), observe=lambda event, _: order.append(event)) as (
        channel,
    ):
        await publish_ids(brokers, exchange, "a")
        await until(lambda: channel.held == 0 and channel.counts.handled == 1, "it is settled")
    assert order == ["handled", "remembered", "acknowledged"]


async def test_a_batch_handler_does_not_get_the_known_ones(brokers: Brokers, exchange: str, remember: Remember) -> None:
    batches: list[list[str]] = []

    @consumer(exchange=exchange, id="q", batch_size=3, batch_wait=5.0)
    async def handler(bodies: list[dict[str, Any]], messages: list[Message]) -> None:
        batches.append([message.id for message in messages])

    async with working(brokers, handler, seen=remember()) as (channel,):
        for n, ids in enumerate([("a", "b", "c"), ("d", "b", "e"), ("a", "b", "d")], start=1):
            await publish_ids(brokers, exchange, *ids)
            await until(lambda n=n: settled(channel) == 3 * n, "the batch is settled")  # type: ignore[misc]
    assert [sorted(batch) for batch in batches] == [["a", "b", "c"], ["d", "e"]]
    assert channel.counts.duplicates == 4


async def test_an_id_is_forgotten_after_its_time(remember: Remember) -> None:
    seen = remember(ttl=0.2)
    await seen.add(["a"])
    assert await seen.known(["a", "b"]) == {"a"}
    async with asyncio.timeout(10.0):
        while await seen.known(["a"]):  # noqa: ASYNC110, a memory tells nobody what it forgets
            await asyncio.sleep(0.01)
    await seen.close()


async def test_an_id_is_remembered_for_its_whole_time_counted_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("mqasync.core.dedup.time.monotonic", lambda: now)
    seen = SeenInProcess(10.0)
    await seen.add(["a", "b"])
    now += 9.9
    assert await seen.known(["a", "b"]) == {"a", "b"}
    await seen.add(["a"])
    now += 0.1
    await seen.add(["c"])
    assert await seen.known(["a", "b", "c"]) == {"a", "c"}
    assert len(seen._ends) == 2, "what is forgotten takes no memory"


async def test_the_process_remembers_a_bounded_number_of_ids_the_newest_and_of_fixed_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert dedup_module.MAX_IDS == 1_000_000
    monkeypatch.setattr(dedup_module, "MAX_IDS", 3)
    seen = SeenInProcess(60.0)
    for n in range(5):
        await seen.add([f"{n}" * 50_000])
    assert await seen.known([f"{n}" * 50_000 for n in range(5)]) == {f"{n}" * 50_000 for n in (2, 3, 4)}
    assert {len(key) for key in seen._ends} == {16}


async def test_different_queues_share_no_ids(exchange: str, remember: Remember) -> None:
    first, second = remember(id="first"), remember(id="second")
    await first.add(["a"])
    assert await first.known(["a"]) == {"a"}
    assert await second.known(["a"]) == set()
    for seen in (first, second, first):
        await seen.close()


async def test_with_more_handlers_than_a_redis_pool_usually_has_connections_all_are_remembered(
    brokers: Brokers, redis_broker: DurableRedis, exchange: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [f"{n}" for n in range(1000)]
    seen = load_seen(redis_broker.url, exchange, "q", 60.0)
    async with working(brokers, idle(exchange, concurrency=200), seen=seen) as (channel,):
        await publish_ids(brokers, exchange, *ids)
        await until(lambda: channel.counts.handled == len(ids), "all are handled")
        await publish_ids(brokers, exchange, *ids)
        await until(lambda: channel.counts.duplicates == len(ids), "all are known")
    assert channel.counts.handled == len(ids)
    assert not warnings_of(caplog)


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_when_redis_goes_away_messages_are_handled_all_the_same_with_one_complaint(
    how: str, brokers: Brokers, private_redis: DurableRedis, exchange: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids = count()

    async with working(brokers, idle(exchange), seen=load_seen(private_redis.url, exchange, "q", 60.0)) as (channel,):
        await publish_ids(brokers, exchange, *(f"{next(ids)}" for _ in range(50)))
        await until(lambda: channel.counts.handled == 50, "all are handled")
        # When Redis goes away
        private_redis.kill() if how == "killed" else private_redis.pause()
        since = time.monotonic()
        # Then what comes is handled, the known as well
        await publish_ids(brokers, exchange, *(f"{n}" for n in range(50)), *(f"{next(ids)}" for _ in range(500)))
        await until(lambda: channel.counts.handled == 600, "all are handled")
        assert time.monotonic() - since < 4.5, "all wait once for a Redis that does not answer, not one after another"
    (complaint,) = warnings_of(caplog)
    assert complaint.startswith(f"{exchange}/q: the Redis that remembers ids does not answer: ")
    assert complaint.endswith("; until it does, duplicates are handled again")
    assert channel.counts.duplicates == 0


async def test_when_redis_goes_away_while_a_message_is_handled_the_message_is_acknowledged(
    brokers: Brokers, private_redis: DurableRedis, exchange: str, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []

    @consumer(exchange=exchange, id="q")
    async def handler(body: dict[str, Any], message: Message) -> None:
        attempts.append(message.attempt)
        private_redis.kill()

    async with working(brokers, handler, seen=load_seen(private_redis.url, exchange, "q", 60.0)) as (channel,):
        await publish_ids(brokers, exchange, "a")
        await until(lambda: channel.counts.handled == 1, "it is handled")
    assert attempts == [1]
    assert await channel.depth() == 0
    assert len(warnings_of(caplog)) == 1


async def test_when_redis_is_back_ids_are_remembered_again(
    brokers: Brokers, private_redis: DurableRedis, exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup_module, "AWAY_SECONDS", 0.1)

    async with working(brokers, idle(exchange), seen=load_seen(private_redis.url, exchange, "q", 60.0)) as (channel,):
        await publish_ids(brokers, exchange, "a")
        await until(lambda: channel.counts.handled == 1, "it is handled")
        private_redis.kill()
        await publish_ids(brokers, exchange, "a")
        await until(lambda: channel.counts.handled == 2, "it is handled again")
        private_redis.start()
        async with asyncio.timeout(20.0):
            while channel.counts.duplicates == 0:
                await publish_ids(brokers, exchange, "a")
                await asyncio.sleep(0.05)


async def test_a_redis_that_was_never_there_is_complained_about_without_its_password(
    brokers: Brokers, exchange: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(brokers, idle(exchange), seen=load_seen(REFUSING, exchange, "q", 60.0)) as (channel,):
        await publish_ids(brokers, exchange, "a", "b")
        await until(lambda: channel.counts.handled == 2, "both are handled")
    assert len(warnings_of(caplog)) == 1
    assert f"127.0.0.1:{urlsplit(REFUSING).port}" in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.parametrize("kind", ["process", "redis"])
async def test_the_start_says_where_ids_are_remembered_and_the_end_how_many_were_repeated(
    kind: str, request: pytest.FixtureRequest, exchange: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = request.getfixturevalue("redis_broker").url if kind == "redis" else None
    caplog.set_level(logging.INFO)

    @consumer(exchange=exchange, id="enrich", dedup="1h")
    async def handler(body: dict[str, Any]) -> None: ...

    settings = Settings(brokers={"main": f"memory:{new_id()}"}, dedup=url)
    async with Runner([Service("here", [handler], [], None)], settings) as runner:
        for _ in range(3):
            await publish_ids(runner.brokers, exchange, "a")
            await runner.idle()
    start = f"{exchange}/enrich remembers ids for 3600 s in "
    if url:
        assert f"{start}{url}" in caplog.messages
    else:
        where = "this process only: not shared with other processes, and lost in a restart"
        assert f"{start}{where}; set `dedup: redis://...` in config.yml" in warnings_of(caplog)
    assert summary(runner)[-1] == f"2 duplicates of {exchange}/enrich were not handled again"


async def test_the_class_form_remembers_too(tmp_path: Path, redis_broker: DurableRedis, exchange: str) -> None:
    config = tmp_path / "config.yml"
    config.write_text(f"brokers: {{main: 'sqlite:{tmp_path}/x.db'}}\ndedup: {redis_broker.url}\n")
    handled: list[str] = []

    class Printer(Consumer):
        async def process(self, message: Any) -> None:
            handled.append(message["id"])

    seen = load_seen(redis_broker.url, exchange, "q", 60.0)
    await seen.add(["a"])
    # Given one message that is known and one that is not
    brokers = Brokers(load_settings(str(config)))
    broker = brokers.route(exchange)
    await broker.call(lambda transport: transport.declare(exchange, "q"))
    for id in ("a", "b"):
        await brokers.publish(Message(body=b'{"id": "%s"}' % id.encode(), exchange=exchange, id=id))
    printing = asyncio.create_task(Printer(exchange=exchange, id="q", dedup="1m").consume(config=str(config)))
    await until(lambda: bool(handled), "one of the two is handled")
    printing.cancel()
    await asyncio.gather(printing, return_exceptions=True)
    # Then the other one is acknowledged without being handled
    assert handled == ["b"]
    assert await broker.call(lambda transport: depth(transport, exchange, "q")) == 0
    assert await seen.known(["b"]) == {"b"}
    await seen.close()
    await brokers.close()


def test_the_decorator_and_config_yml_say_how_long_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @consumer(exchange="CTH", id="q", dedup="1h")
    async def handler(body: dict[str, Any]) -> None: ...

    monkeypatch.setenv("PASSWORD", "a/b@c")
    file = tmp_path / "config.yml"
    file.write_text(
        "dedup: redis://user:${PASSWORD}@host:6379/0\nconsumers: {CTH/q: {dedup: 2d}, CTH/other: {dedup: null}}"
    )
    settings = load_settings(str(file))
    assert handler.options.dedup == 3600.0
    assert settings.consumer_options("CTH", "q", handler.options).dedup == 172_800.0
    assert settings.consumer_options("CTH", "other", handler.options).dedup is None
    assert ConsumerOptions().dedup is None
    assert settings.dedup == "redis://user:a%2Fb%40c@host:6379/0"
    assert shown(settings)["dedup"] == "redis://user:***@host:6379/0"


def test_a_wrong_dedup_in_code_is_one_sentence() -> None:
    with pytest.raises(ConfigurationError, match=r"dedup is '0s'; it takes a duration of more than 0, such as 1h"):
        consumer(exchange="CTH", id="q", dedup="0s")(lambda_handler)
    with pytest.raises(ConfigurationError, match=r"'soon' is not a duration"):
        Consumer(exchange="CTH", id="q", dedup="soon")


async def lambda_handler(body: dict[str, Any]) -> None: ...


@pytest.mark.parametrize("option", ["nonsense=1", "ssl_cert_reqs=none", "ssl_check_hostname=false"])
def test_an_option_that_redis_does_not_know_or_that_switches_off_tls_is_refused_at_start(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{option.partition('=')[0]}' cannot be set in a rediss URL; valid"):
        load_seen(f"rediss://u:hidden@h/?{option}", "CTH", "q", 60.0)
