"""The shortcuts through aiormq: what they rely on is there in the pinned version, and without them all works too."""

import asyncio
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mqasync import BrokerLost, Message, Unroutable
from mqasync.message import new_id
from mqasync.transports import aiormq_fast, load
from mqasync.transports.amqp_errors import broker_errors

ROOT = Path(__file__).parent.parent


def test_the_shortcuts_are_there_in_the_version_that_is_pinned() -> None:
    assert aiormq_fast.FAST
    assert f"aiormq=={version('aiormq')}" in (ROOT / "pyproject.toml").read_text()
    assert f"aio-pika=={version('aio-pika')}" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("fast", [True, False])
async def test_messages_go_through_with_and_without_the_shortcuts(
    fast: bool, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiormq_fast, "FAST", fast)
    exchange = f"E{new_id()}"
    transport = load(rabbitmq_url)
    await transport.open()
    messages = [Message(body=b"x" * size, exchange=exchange, id=str(size)) for size in (0, 1, 200_000, 1_000_000)]
    with pytest.raises(Unroutable):
        await transport.publish(exchange, messages)
    await transport.declare(exchange, "q")
    await transport.publish(exchange, messages)
    subscription = await transport.subscribe(exchange, "q", 10)
    bodies: list[tuple[str, bytes]] = []
    async with asyncio.timeout(20):
        while len(bodies) < len(messages):
            deliveries = await subscription.receive(10, 1.0)
            bodies += [(delivery.message.id, delivery.message.body) for delivery in deliveries]
            if deliveries:
                await subscription.ack(deliveries)
    assert bodies == [(message.id, message.body) for message in messages]
    await transport.close()


async def test_who_waits_on_a_channel_that_closes_is_told_and_so_is_who_comes_later(rabbitmq_url: str) -> None:
    transport: Any = load(rabbitmq_url)
    await transport.open()
    channel = transport._publishing.channel

    async def wait() -> None:
        await asyncio.Event().wait()

    waiting = asyncio.create_task(aiormq_fast.while_open(channel, wait()))
    await asyncio.sleep(0)
    await channel.connection.close(ConnectionError("cut"))
    for one in (waiting, aiormq_fast.while_open(channel, wait())):
        with pytest.raises(BrokerLost), broker_errors():
            await asyncio.wait_for(one, 5)
    await transport.close()
