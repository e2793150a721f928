"""The oracle is not blind: with one protection switched off at a time, its fault does lose messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqasync import Message, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.core.channel import Channel
from mqasync.core.settlement import Settlement
from mqasync.message import new_id
from mqasync.transports import rabbitmq, rabbitmq_patches, sqlite

from ..brokers import RabbitMQ
from ..conformance import receive
from ..conftest import Connect
from ..waiting import until
from ..working import publish, until_depth, working
from .load import FIRST_RETRIED, Load, loads

MESSAGES = 2_000
CLASSIC = {"x-queue-type": "classic"}  # a quorum queue keeps everything on the disk, whatever the publisher says


def kill_under_load(server: RabbitMQ, frozen: float, patience: float) -> set[int]:
    """What is lost when the broker stands still until so large a part is confirmed, is killed and started again.

    What is not handled after so many seconds without progress is lost.
    """
    with loads(server.url, MESSAGES, options=CLASSIC) as running:
        for work in running:
            work.until_confirmed(0.2)
        server.pause()
        for work in running:
            work.until_confirmed(frozen)
        server.kill()
        server.restart()
        for work in running:
            work.until_confirmed(1.0)
            work.stop = True
        lost, since = MESSAGES, time.monotonic()
        while lost and time.monotonic() < since + patience:
            time.sleep(0.1)
            left = sum(len(work.ledger.lost) for work in running)
            lost, since = left, since if left == lost else time.monotonic()
        return {n for work in running for n in work.ledger.lost}


def test_without_a_mutation_nothing_is_lost(server: RabbitMQ) -> None:
    assert kill_under_load(server, frozen=0.2, patience=60) == set()


def test_without_waiting_for_confirms_messages_are_lost(server: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    class Confirmed(rabbitmq_patches.Unconfirmed):
        def __init__(self, channel: Any, count: int) -> None:
            super().__init__(channel, count)
            self.all.set_result(None)

    monkeypatch.setattr(rabbitmq_patches, "Unconfirmed", Confirmed)
    assert kill_under_load(server, frozen=0.4, patience=5)


def test_without_persistence_messages_are_lost(server: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    def transient(message: Any) -> Any:
        properties = to_properties(message)
        properties.delivery_mode = 1
        return properties

    to_properties = rabbitmq.to_properties
    monkeypatch.setattr(rabbitmq, "to_properties", transient)
    with loads(server.url, MESSAGES, options=CLASSIC) as running:
        # Given messages that wait in the queue, as nobody consumes it any more
        for work in running:
            work.hold.clear()
            work.until(lambda work=work: not work.ledger.lost, "all so far are handled")  # type: ignore[misc]
            for channel in work.channels:
                work.call(channel.drain, 1.0)
            work.hold.set()
            work.until_confirmed(1.0)
        server.kill()
        server.restart()
        left = server.control("list_queues", "messages")
        assert sum(int(line) for line in left.split() if line.isdecimal()) < MESSAGES // 2, left


def test_without_retry_a_failed_message_is_lost(server: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(self: Settlement, delivery: Any, error: BaseException) -> None:
        self._ack_soon([delivery])

    monkeypatch.setattr(Settlement, "fail", forget)
    work = Load(server.url, MESSAGES, "uvloop")
    work.begin()
    work.hold.set()
    work.until_confirmed(1.0)
    work.until(lambda: len(work.ledger.processed) > 0.9 * MESSAGES and not work.held, "what does not fail is handled")
    work.stop = True
    work._finish.set()
    work._thread.join(30)
    assert FIRST_RETRIED in work.ledger.lost


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("kind", ["SQLite", "RabbitMQ"])
async def test_acknowledging_before_the_outputs_are_confirmed_loses_what_a_stop_interrupts(
    kind: str, early: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acknowledge_first(self: Channel, job: Any, deliveries: Any, then: Any) -> Any:
        self._settlement.acknowledge(deliveries)
        return attempt(self, job, deliveries, then)

    async def never_confirmed(message: Message) -> None:
        handled.set()
        await asyncio.Event().wait()

    attempt: Callable[..., Any] = Channel._attempt
    if early:
        monkeypatch.setattr(Channel, "_attempt", acknowledge_first)
    url = f"sqlite:{tmp_path}/test.db" if kind == "SQLite" else request.getfixturevalue("rabbitmq_url")
    exchange, handled = f"E{new_id()}", asyncio.Event()

    @consumer(exchange=exchange, id="q", to="anywhere")
    async def step(body: dict[str, int]) -> dict[str, int]:
        return body

    brokers = Brokers(Settings(brokers={"main": url}))
    # Given a step whose output is not confirmed, when it is stopped
    async with working(brokers, step, publish=never_confirmed, grace=0.0) as (channel,):
        await publish(brokers, exchange, b"{}")
        await asyncio.wait_for(handled.wait(), 20)
        if early:
            await until(lambda: not channel.held, "the input is acknowledged")
    # Then the message is there, or lost if it was acknowledged too early
    await until_depth(channel, 0 if early else 1)
    await brokers.close()


async def test_without_fencing_a_stale_owner_takes_a_message_from_the_one_who_works_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    """In SQLite; that it has no effect with fencing is in tests/conformance.py."""
    how, sql = sqlite.SETTLE["release"]
    assert " AND taken = ?2" in sql
    monkeypatch.setitem(sqlite.SETTLE, "release", (how, sql.replace(" AND taken = ?2", " AND ?2 IS NOT NULL")))
    transports = [await connect(f"sqlite:{tmp_path}/test.db?lease=0.2") for _ in range(2)]
    await transports[0].declare("E", "q")
    await transports[0].publish("E", [Message(body=b"1", exchange="E")])
    stale, owner = [await transport.subscribe("E", "q", 10) for transport in transports]
    held = await receive(stale, 1)
    while not (mine := await owner.receive(1, 1.0)):
        pass  # until the lease has run out
    await owner.extend(mine)
    # When the stale owner puts it back, then somebody gets it while its owner works on it
    await stale.release(held)
    assert await stale.receive(1, 0.5)
