"""A RabbitMQ that is away: closing never hangs, and no cancellation gets lost."""

import asyncio
import random

import pytest

from mqasync.brokers import broker
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.config.urls import each_host

from .brokers import free_port
from .servers.redis import DurableRedis


async def test_a_cancellation_is_never_lost_while_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiormq and asyncio.wait_for lost one in four: whatever moment it comes at, the waiting ends."""
    monkeypatch.setattr(broker, "pause", lambda failures: 0.0005 * random.random())
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
    assert each_host("kafkas://one,two?cafile=/tls/ca.pem") == [
        "kafkas://one?cafile=/tls/ca.pem",
        "kafkas://two?cafile=/tls/ca.pem",
    ]
    assert each_host("sqlite:a,b.db") == ["sqlite:a,b.db"]
