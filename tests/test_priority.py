"""Priority: an analyst's look-up is received before the bulk feed that waits."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mqasync import ConfigurationError, Message, Out, Producer, Requester, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import ExchangeSettings, Settings
from mqasync.handlers.step import outgoing
from mqasync.message import new_id

from .commands import CommandLine
from .conftest import required, url_of
from .servers.activemq import POLICIES, running_activemq
from .waiting import until
from .working import publish, working

PRIORITIZED = POLICIES.replace('queue="&gt;"', 'queue="&gt;" prioritizedMessages="true"')


@pytest.fixture(params=["memory", "sqlite", "postgres", "rabbitmq", "activemq"])
def brokers(request: pytest.FixtureRequest, tmp_path: Path, exchange: str) -> Iterator[Brokers]:
    """Those that have priorities; RabbitMQ 3 has them in classic queues, ActiveMQ where it is set up so."""
    options: dict[str, Any] = {"x-queue-type": "classic", "x-max-priority": 10} if request.param == "rabbitmq" else {}
    exchanges = {name: ExchangeSettings(options=options) for name in (exchange, f"{exchange}.out")}
    if request.param != "activemq":
        yield Brokers(Settings(brokers={"main": url_of(request.param, request, tmp_path)}, exchanges=exchanges))
    else:
        with required(running_activemq(policies=PRIORITIZED)) as server:
            yield Brokers(Settings(brokers={"main": server.url}))


async def test_what_has_a_higher_priority_is_received_first_and_its_outputs_keep_it(
    brokers: Brokers, exchange: str
) -> None:
    got: list[tuple[str, int]] = []

    @consumer(exchange=exchange, id="step", to=f"{exchange}.out", concurrency=1, prefetch=1, retries=1, backoff=0.01)
    async def step(body: str, message: Message) -> Any:
        if body == "look-up" and message.attempt == 1:
            raise ValueError("a retry keeps it too")
        return Out("none", priority=0) if body == "feed 0" else body

    @consumer(exchange=f"{exchange}.out", id="sink")
    async def sink(body: str, message: Message) -> None:
        got.append((body, message.priority))

    order: list[str] = []

    @consumer(exchange=exchange, id="order", concurrency=1, prefetch=1)
    async def first(body: str) -> None:
        order.append(body)

    # Given a feed that waits
    async with working(brokers, step, sink) as channels, working(brokers, first) as (waiting,):
        await waiting.drain(1.0)
        await publish(brokers, exchange, *(json.dumps(f"feed {n}").encode() for n in range(20)))
        # When somebody looks something up, and somebody else something more urgent
        await publish(brokers, exchange, b'"look-up"', priority=3)
        await publish(brokers, exchange, b'"urgent"', priority=5)
        async with working(brokers, first):
            await until(lambda: len(order) == 22, "all are received")
        # Then that is received before the feed, and the rest in its order
        assert [*order[:2], order[2:]] == ["urgent", "look-up", [f"feed {n}" for n in range(20)]]
        await until(lambda: len(got) == 22, "all went through")
        assert channels[0].counts.retried == 1
    assert sorted(one for one in got if one[1]) == [("look-up", 3), ("urgent", 5)]
    await brokers.close()


async def test_where_a_broker_has_none_it_is_said_once(
    tmp_path: Path, request: pytest.FixtureRequest, exchange: str, caplog: pytest.LogCaptureFixture
) -> None:
    brokers = Brokers(Settings(brokers={"main": url_of("redis", request, tmp_path)}))
    got: list[int] = []

    @consumer(exchange=exchange, id="q")
    async def handler(body: int, message: Message) -> None:
        got.append(message.priority)

    async with working(brokers, handler):
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                await publish(brokers, exchange, b"1", priority=2)
        await until(lambda: got == [2, 2], "they come all the same")
    await brokers.close()
    said = f"the broker of exchange {exchange!r} has no priorities: messages with one wait their turn"
    assert [record.message for record in caplog.records if "priorities" in record.message] == [said]


async def test_programs_give_one(exchange: str) -> None:
    got: list[tuple[int, int]] = []

    @consumer(exchange=exchange, id="q")
    async def handler(body: int, message: Message) -> int:
        got.append((body, message.priority))
        return body

    url = f"memory:{new_id()}"
    brokers = Brokers(Settings(brokers={"main": url}))
    async with working(brokers, handler), Requester(broker=url) as request:
        async with Producer(exchange=exchange, id="me", broker=url) as producer:
            await producer.produce(1, priority=9)
            await producer.produce_many([Out(2, priority=4), 3])
        assert await request(exchange, 4, priority=1) == 4
        await until(lambda: len(got) == 4, "all are handled")
    await brokers.close()
    assert sorted(got) == [(1, 9), (2, 4), (3, 0), (4, 1)]


def test_the_command_line_gives_one_and_shows_it(cli: CommandLine, exchange: str) -> None:
    cli.declare(exchange, "q")
    assert (
        cli.run("produce", "--exchange", exchange, "--id", "me", "--priority", "7", "--key", "k", "1").returncode == 0
    )
    peeked = cli.run("peek", exchange, "q", "--json")
    assert '"key":"k"' in peeked.stdout.replace(" ", "") and '"priority":7' in peeked.stdout.replace(" ", "")
    assert cli.run("produce", "--exchange", exchange, "--id", "me", "--priority", "10", "1").returncode == 2


@pytest.mark.parametrize("priority", [-1, 10, True, 1.0, "1"])
def test_what_is_no_priority_is_quoted(priority: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"priority is {priority!r}; it takes a whole number from 0 to 9"):
        outgoing(Out(1, priority=priority), "out", "me")
