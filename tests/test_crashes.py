"""A message that kills its process again and again ends among the dead letters, and takes no innocent with it."""

import asyncio
import json
from collections import deque
from pathlib import Path

import pytest

from mqasync import consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.core.poison import MAX_ALONE, SUSPECT_RETURNS, Quarantine
from mqasync.message import new_id

from .commands import CommandLine
from .conftest import url_of
from .waiting import until
from .working import publish, working

SERVICE = """
import os
from mqasync import consumer

@consumer(exchange="in", id="q", concurrency={concurrency})
async def handler(body: dict):
    if body["n"] == {poison}:
        os._exit(77)
    print(body["n"], file=open("handled", "a"))
"""
MESSAGES, POISON, LIVES = 40, 3, 40


@pytest.mark.parametrize(("kind", "concurrency"), [("sqlite", 10), ("rabbitmq", 10)])
def test_poison_that_kills_its_process_is_dead_lettered_alone(
    kind: str, concurrency: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:{tmp_path}/test.db?lease=0.3" if kind == "sqlite" else request.getfixturevalue("rabbitmq_url")
    exchange = f"crash-{concurrency}"
    command = CommandLine(tmp_path, url)
    command.file("victim.py", SERVICE.format(concurrency=concurrency, poison=POISON).replace('"in"', f'"{exchange}"'))
    command.declare(exchange, "q")
    command.publish(exchange, *(json.dumps({"n": n}) for n in range(MESSAGES)))
    # Given a service that is started again whenever it dies, as any supervisor does
    deaths = 0
    for _ in range(LIVES):
        done = command.run("run", "victim", "--until-idle")
        if done.returncode != 77:
            break
        deaths += 1
    print(f"{kind}, concurrency {concurrency}: {deaths} deaths")
    assert done.returncode == 0, done.stderr
    # Then all innocents are handled, and the poison alone is dead-lettered, with the reason
    handled = {int(line) for line in (tmp_path / "handled").read_text().split()}
    assert handled == set(range(MESSAGES)) - {POISON}
    assert command.depth(exchange, "q.dead") == 1
    assert "its process died" in done.stderr
    assert 3 <= deaths <= 15


@pytest.mark.parametrize("kind", ["rabbitmq", "nats", "sqs", "sqlite"])
async def test_a_graceful_stop_is_no_death_however_often(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    exchange, handled, stop = f"E{new_id()}", list[int](), True

    @consumer(exchange=exchange, id="q", concurrency=1, prefetch=10)
    async def handler(body: dict[str, int]) -> None:
        if stop:
            begun.set()
            await asyncio.Event().wait()
        handled.append(body["n"])

    # Given ten messages, when a process that had begun one of them is stopped again and again
    for life in range(2 * MAX_ALONE + SUSPECT_RETURNS + 2):
        begun = asyncio.Event()
        brokers = Brokers(Settings(brokers={"main": url_of(kind, request, tmp_path)}))
        async with working(brokers, handler, grace=0.0):
            if life == 0:
                await publish(brokers, exchange, *(b'{"n": %d}' % n for n in range(10)))
            await asyncio.wait_for(begun.wait(), 20)
        await brokers.close()
    # Then none of them is to blame
    stop = False
    brokers = Brokers(Settings(brokers={"main": url_of(kind, request, tmp_path)}))
    async with working(brokers, handler) as (channel,):
        await until(lambda: len(set(handled)) == 10, "all are handled", 60)
    assert (channel.counts.dead_lettered, channel.counts.failed) == (0, 0)
    await brokers.close()


BLOCKER = """
import time, asyncio
from mqasync import consumer

@consumer(exchange="EXCHANGE", id="q", concurrency=10)
async def handler(body: dict):
    print(body["n"], flush=True)
    if body["n"] == 7:
        time.sleep(4)
    await asyncio.sleep(0.01)
"""


def test_a_handler_that_blocks_the_loop_runs_once_and_its_neighbours_are_not_to_blame(
    rabbitmq_url: str, tmp_path: Path
) -> None:
    exchange = f"E{new_id()}"
    command = CommandLine(tmp_path, f"{rabbitmq_url}?heartbeat=1")
    command.file("victim.py", BLOCKER.replace("EXCHANGE", exchange))
    command.declare(exchange, "q")
    command.publish(exchange, *(json.dumps({"n": n}) for n in range(200)))
    # When one message blocks the process for longer than the broker waits for a heartbeat
    done = command.run("run", "victim", "--until-idle")
    assert done.returncode == 0, done.stderr
    assert "is lost" in done.stderr and "has been blocked" in done.stderr
    # Then that is said, nothing is dead-lettered, and what was done by then is not done again
    handled = [int(line) for line in done.stdout.split()]
    assert set(handled) == set(range(200)), (command.depth(exchange, "q"), done.stderr)
    assert len(handled) == 200, sorted(n for n in set(handled) if handled.count(n) > 1)
    assert command.depth(exchange, "q.dead") == 0


async def test_a_suspect_runs_alone_and_everybody_gets_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqasync.core.poison.SETTLE_SECONDS", 0.0)
    quarantine = Quarantine()
    running: list[str] = []
    order: list[str] = []

    waiting: deque[str] = deque()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(name: str, alone: bool) -> None:
        running.append(name)
        for _ in range(5):
            assert not alone or running == [name], f"{name} runs with {running}"
            await asyncio.sleep(0)
        running.remove(name)
        order.append(name)
        if not alone:
            quarantine.leave()

    async def handle_alone(name: str) -> None:
        async with quarantine.alone():
            await handle(name, True)

    def begin() -> None:
        while waiting and quarantine.open:
            quarantine.enter()
            tasks.add(asyncio.create_task(handle(waiting.popleft(), False)))

    quarantine.join(begin, list)
    # Given two that run, when two suspects and two more come
    for name in ("a", "b", "suspect 1", "c", "suspect 2", "d"):
        if name.startswith("suspect"):
            tasks.add(asyncio.create_task(handle_alone(name)))
            await asyncio.sleep(0)
        else:
            waiting.append(name)
            begin()
    await until(lambda: len(order) == 6, "all have run")
    assert order == ["a", "b", "suspect 1", "c", "d", "suspect 2"]


async def test_a_slow_handler_holds_up_the_others_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqasync.core.poison.ALONE_SECONDS", 0.05)
    quarantine, gone = Quarantine(), asyncio.Event()
    quarantine.enter()  # and it does not leave

    async def slow() -> None:
        async with quarantine.alone():
            await gone.wait()

    running = asyncio.create_task(slow())
    await until(lambda: not quarantine.open, "the suspect shuts the others out")
    await until(lambda: quarantine.open, "it has let them in again while it waits or runs")
    gone.set()
    await running
