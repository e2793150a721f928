"""What a process says of itself: a loop that stands still, a broker that does not answer, consumers that consume."""

import asyncio
import time
from typing import Any

import pytest

from mqasync import Message, consumer, producer
from mqasync.brokers.broker import Brokers
from mqasync.complaints import Complaints
from mqasync.config.settings import Settings
from mqasync.observe.lag import LoopWatch
from mqasync.service.discovery import Service
from mqasync.service.runner import Runner

from .waiting import until
from .working import publish, working


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


async def test_a_handler_that_blocks_the_loop_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    @consumer(exchange="in", id="q")
    async def slow(body: dict[str, Any]) -> None:
        time.sleep(1.5)  # noqa: ASYNC251, that is the fault

    with LoopWatch([slow.handler]) as watch:
        for _ in range(2):
            await slow({})
            await asyncio.sleep(0.3)
    assert watch.lags == 2
    (line,) = said(caplog, "has been blocked")
    assert "slow" in line and "test_health.py" in line and "asyncio.to_thread" in line


async def test_a_loop_that_runs_is_not_complained_about(caplog: pytest.LogCaptureFixture) -> None:
    with LoopWatch([]) as watch:
        await asyncio.sleep(1.5)
    assert watch.lags == 0
    assert not caplog.records


async def test_health_tells_whether_consumers_really_consume() -> None:
    @consumer(exchange="in", id="q")
    async def handler(body: dict[str, Any]) -> None: ...

    @producer(exchange="in", id="p")
    async def feed() -> dict[str, Any]:
        return {}

    service = Service("test", [handler], [feed], None)
    async with Runner([service], Settings(brokers={"main": "memory:health"})) as runner:
        await until(lambda: runner.health().ready, "it is ready")
        await runner.brokers.publish(Message(body=b"1", exchange="in"))
        await until(lambda: runner.health().consumers["in/q"].dead_lettered == 1, "what is no dict is dead-lettered")
        health = runner.health()
        assert health.brokers["main"].state == "connected"
        assert "InvalidMessage" in health.consumers["in/q"].last_error
        broker = runner.brokers.route("in")
        connection: Any = await broker.connected()
        connection._calls.blocked = "low on memory"
        assert not runner.health().ready
        assert runner.health().brokers["main"].state == "blocked: low on memory"
    assert not runner.health().ready, "nothing consumes any more"


async def test_a_broker_that_does_not_answer_is_complained_about_once_and_so_is_its_return(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqasync.brokers.broker.SILENT_SECONDS", 0.05)
    brokers = Brokers(Settings(brokers={"main": "memory:silent"}))
    broker = brokers.route("in")
    transport: Any = await broker.connected()
    await transport.declare("in", "q")
    go_on = asyncio.Event()
    publish = transport.publish

    async def slow(*arguments: Any) -> None:
        await go_on.wait()
        await publish(*arguments)

    monkeypatch.setattr(transport, "publish", slow)
    waiting = [brokers.publish(Message(body=b"{}", exchange="in")) for _ in range(2)]
    await until(lambda: broker.state == "silent", "it is noticed")
    transport._calls.blocked = "low on memory"
    assert broker.state == "blocked: low on memory"
    transport._calls.blocked = ""
    go_on.set()
    await asyncio.gather(*waiting)
    assert broker.state == "connected"
    assert len(said(caplog, "has not answered for 0.05 s")) == 1
    assert len(said(caplog, "answers again")) == 1
    await brokers.close()


def test_the_same_complaint_is_made_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("mqasync.complaints.time.monotonic", lambda: now)
    complaints = Complaints()
    for text, now in (("a", 1000.0), ("a", 1001.5), ("b", 1003.0), ("b", 1062.0), ("b", 1064.0)):  # noqa: B007
        complaints.say(text)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["a", "b (and 1 more not shown)", "b (and 1 more not shown)"]


async def test_a_lost_publishing_connection_takes_the_consumers_along_to_the_next(rabbitmq_url: str) -> None:
    handled: list[int] = []

    @consumer(exchange="lost-publisher", id="q", backoff=0.01)
    async def handler(body: dict[str, int], message: Message) -> None:
        handled.append(message.attempt)
        if message.attempt == 1:
            raise ValueError("once")

    brokers = Brokers(Settings(brokers={"main": rabbitmq_url}))
    broker = brokers.route("lost-publisher")
    async with working(brokers, handler) as (channel,):
        await until(lambda: channel.consuming, "it consumes")
        # When only the connection that publishes ends, as if nobody published
        transport: Any = await broker.connected()
        await transport._transport._publisher.close(ConnectionError("cut"))
        # Then the next failing message is retried all the same
        await until(lambda: broker.reconnects == 1 and channel.consuming, "it consumes again")
        await publish(brokers, "lost-publisher", b"{}")
        await until(lambda: 2 in handled, "it is retried")
    await brokers.close()
