"""A RabbitMQ that is away: closing never hangs, and no cancellation gets lost."""

import asyncio
import random
import time
from collections.abc import Iterator

import pytest

from mqasync import Message, consumer
from mqasync.brokers import broker
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.config.urls import each_host
from mqasync.core.channel import Channel
from mqasync.handlers.step import Step

from .brokers import RabbitMQ, free_port, rabbitmq
from .conftest import required
from .servers.redis import DurableRedis


@pytest.fixture
def private_rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ of this test's own, to be killed."""
    with required(rabbitmq()) as server:
        yield server


async def test_draining_and_closing_are_bounded_while_the_broker_is_away(private_rabbitmq: RabbitMQ) -> None:
    brokers = Brokers(Settings(brokers={"main": private_rabbitmq.url}))
    busy = asyncio.Event()

    @consumer(exchange="in", id="q")
    async def handler(body: dict[str, int]) -> None:
        busy.set()
        await asyncio.sleep(0.5)

    channel = Channel(Step(handler, brokers.publish, {}), brokers.route("in"))
    await channel.declare()
    channel.start()
    await brokers.publish(Message(body=b"{}", exchange="in"))
    await busy.wait()
    # Given a handler in the middle of its work, when the broker dies and we stop
    await asyncio.to_thread(private_rabbitmq.kill)
    waiting = brokers.publish(Message(body=b"{}", exchange="in"))
    started = time.monotonic()
    await channel.drain(2.0)
    await channel.drain(2.0)
    await brokers.close()
    await brokers.close()
    # Then we are done soon, and who still waited for a confirmation is told
    assert time.monotonic() - started < 15
    with pytest.raises(Exception, match="was closed before it confirmed"):
        await waiting


async def test_a_cancellation_is_never_lost_while_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiormq and asyncio.wait_for lost one in four: whatever moment it comes at, the waiting ends."""
    monkeypatch.setattr(broker, "LONGEST_PAUSE", 0.0005)
    url = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    for _ in range(60):
        connecting = asyncio.create_task(Brokers(Settings(brokers={"main": url})).route("CTH").connected())
        await asyncio.wait([connecting], timeout=random.uniform(0.0, 0.02))
        connecting.cancel()
        await asyncio.wait([connecting], timeout=1.0)
        assert connecting.cancelled()


async def test_the_hosts_of_one_url_are_tried_in_turn(redis_broker: DurableRedis) -> None:
    url = redis_broker.url.replace("127.0.0.1", f"127.0.0.1:{free_port()},127.0.0.1")
    brokers = Brokers(Settings(brokers={"main": url}))
    try:
        async with asyncio.timeout(10):
            await brokers.route("CTH").connected()
        assert brokers.route("CTH").state == "connected"
    finally:
        await brokers.close()


def test_a_url_with_several_hosts_is_one_url_for_each() -> None:
    assert each_host("amqp://u:p%40@one,two:5673/v?x=1,2") == [
        "amqp://u:p%40@one/v?x=1,2",
        "amqp://u:p%40@two:5673/v?x=1,2",
    ]
    assert each_host("sqlite:a,b.db") == ["sqlite:a,b.db"]
