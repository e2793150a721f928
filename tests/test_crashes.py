"""A message that kills its process again and again ends among the dead letters, and takes no innocent with it."""

import asyncio
import json
from collections import deque
from pathlib import Path

import pytest

from mqasync.core.poison import Quarantine

from .commands import CommandLine
from .waiting import until

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


@pytest.mark.parametrize("concurrency", [1, 10])
@pytest.mark.parametrize("kind", ["sqlite", "rabbitmq"])
def test_poison_that_kills_its_process_is_buried_alone(
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
    # Then all innocents are handled, and the poison alone is buried, with the reason
    handled = {int(line) for line in (tmp_path / "handled").read_text().split()}
    assert handled == set(range(MESSAGES)) - {POISON}
    assert command.depth(exchange, "q.dead") == 1
    assert "its process died" in done.stderr
    assert 3 <= deaths <= 15


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

    quarantine.reopened.append(begin)
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
