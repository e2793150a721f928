"""ActiveMQ killed while a queue is empty, and a way to it that loses messages alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mqasync import Message, consumer
from mqasync.config.settings import Settings
from mqasync.service.discovery import Service
from mqasync.service.runner import Runner

from ..conformance import message, numbers, receive
from ..conftest import Connect, required
from ..servers.activemq import ActiveMQ, running_activemq
from ..waiting import depth, until
from .proxy import Proxy


@pytest.fixture(scope="module")
def fragile_activemq() -> Iterator[ActiveMQ]:
    """One ActiveMQ for the tests that break it; each leaves it running."""
    with required(running_activemq()) as server:
        yield server


@pytest.mark.parametrize("consumed", [False, True], ids=["before anybody consumed", "after its marker was consumed"])
async def test_a_queue_that_never_had_a_message_survives_a_kill(
    fragile_activemq: ActiveMQ, consumed: bool, exchange: str, connect: Connect
) -> None:
    # Given a queue that was declared, and perhaps consumed from, and is empty
    transport = await connect(fragile_activemq.url)
    await transport.declare(exchange, "q")
    if consumed:
        subscription = await transport.subscribe(exchange, "q", 10)
        assert await subscription.receive(10, 0.3) == []
    await transport.close()
    # When the broker is killed before anybody publishes
    fragile_activemq.kill()
    fragile_activemq.start()
    # Then what is published has a queue to go to
    transport = await connect(fragile_activemq.url)
    await transport.publish(exchange, [message(1)])
    assert await depth(transport, exchange, "q") == 1
    assert numbers(await receive(await transport.subscribe(exchange, "q", 10), 1)) == [1]


async def test_messages_that_wait_while_nothing_comes_are_noticed_and_handled(
    fragile_activemq: ActiveMQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mqasync.core.receiver.SILENT_SECONDS", 1.0)
    monkeypatch.setattr("mqasync.core.receiver.ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("mqasync.core.receiver.RECEIVE_SECONDS", 0.5)
    handled: list[int] = []

    @consumer(exchange="silent", id="q")
    async def handler(body: int) -> None:
        handled.append(body)

    with Proxy(fragile_activemq.port) as proxy:
        url = fragile_activemq.url.replace(str(fragile_activemq.port), str(proxy.port))
        async with Runner([Service("test", [handler], [], None)], Settings(brokers={"main": url})) as runner:
            await runner.brokers.publish(Message(body=b"1", exchange="silent"))
            await until(lambda: handled == [1], "it consumes")
            # When the way from the broker loses messages, and lets heartbeats and receipts pass
            proxy.withhold(rb"MESSAGE\n[^\0]*\0")  # a receipt may come with one in the same packet
            await runner.brokers.publish(Message(body=b"2", exchange="silent"))
            # Then that is noticed, said, seen by probes, and mended
            await until(lambda: not runner.health().ready, "it is not ready")
            await until(lambda: handled == [1, 2], "what waited is handled")
            await until(lambda: runner.health().ready, "it is ready again")
    assert "no message has arrived for" in caplog.text
