"""What becomes of a producer that fails, and of everything else in its process."""

import argparse
import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mqasync import ConfigurationError, consumer, producer
from mqasync.config.settings import Settings
from mqasync.errors import MqasyncError
from mqasync.message import new_id
from mqasync.service.discovery import Service
from mqasync.service.runner import Runner

from .commands import CommandLine
from .waiting import until


class Panic(BaseException):
    """What a panic of an extension written in Rust is."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise Panic("no text")


def cancel() -> None:
    task = asyncio.current_task()
    assert task
    task.cancel()


def fail(error: BaseException) -> Callable[[], None]:
    def throw() -> None:
        raise error

    return throw


KINDS: dict[str, Callable[[], Any]] = {
    "OSError": fail(OSError("503")),
    "Panic": fail(Panic("index out of bounds")),
    "BaseExceptionGroup": fail(BaseExceptionGroup("two", [Panic("one"), ValueError("other")])),
    "GeneratorExit": fail(GeneratorExit()),
    "KeyboardInterrupt": fail(KeyboardInterrupt()),
    "CancelledError": fail(asyncio.CancelledError()),
    "CancelledError, by itself": cancel,
    "SystemExit": lambda: argparse.ArgumentParser().parse_args(["--nonsense"]),
    "Unspeakable": fail(Unspeakable()),
    "RuntimeError": fail(StopIteration()),
    "ConfigurationError": object,  # cannot be encoded
}


def runner(*producers: Any, until_idle: bool = False, seen: list[int] | None = None) -> Runner:
    """Of these producers and of a consumer that puts down which numbers it has `seen`."""

    @consumer(exchange="in", id="q")
    async def handler(body: dict[str, int]) -> None:
        if seen is not None:
            seen.append(body["n"])

    settings = Settings(brokers={"main": f"memory:{new_id()}"})
    return Runner([Service("here", [handler], list(producers), None)], settings, until_idle=until_idle, grace=1.0)


@pytest.mark.parametrize("generator", [False, True], ids=["function", "generator"])
@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_a_producer_raises_costs_that_run_only(kind: str, generator: bool) -> None:
    runs = 0
    seen: list[int] = []

    async def numbers() -> Any:
        nonlocal runs
        runs += 1
        if runs not in (2, 3):
            return {"n": runs}
        outcome = KINDS[kind]()
        await asyncio.sleep(0)
        return outcome

    if generator:

        @producer(exchange="in", id="bad", every="20ms")
        async def bad() -> Any:
            yield await numbers()
    else:
        bad = producer(exchange="in", id="bad", every="20ms")(numbers)

    @producer(exchange="in", id="good")
    async def good() -> Any:
        while True:
            yield {"n": 0}
            await asyncio.sleep(0.01)

    async with runner(bad, good, seen=seen) as running:
        working = asyncio.create_task(running.finished())
        await until(lambda: running.health().producers["in/bad"].failing, "health tells of the failure")
        assert running.health().failing["in/bad"].startswith(kind.partition(",")[0])
        zeros = seen.count(0)
        await until(lambda: 5 in seen and seen.count(0) > zeros, "both producers go on")
        assert not working.done()
        now = running.health()
        assert (now.failing, now.producers["in/bad"].failed) == ({}, 2)
        working.cancel()
    assert 1 in seen and not {2, 3} & set(seen)


async def test_a_producer_without_a_schedule_is_tried_again_with_pauses_up_to_five_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[tuple[int, float, float]] = []

    def pause(failures: int, first: float, longest: float) -> float:
        pauses.append((failures, first, longest))
        return 0.0

    monkeypatch.setattr("mqasync.core.feed.pause", pause)
    runs = 0
    seen: list[int] = []

    @producer(exchange="in", id="p")
    async def source() -> Any:
        nonlocal runs
        runs += 1
        if runs < 20:
            raise OSError("503")
        return {"n": runs}

    async with runner(source, seen=seen) as running:
        working = asyncio.create_task(running.finished())
        await until(lambda: seen == [20], "it has come through")
        working.cancel()
    assert pauses == [(failures, 1.0, 300.0) for failures in range(1, 20)]


async def test_a_mistake_that_a_producer_finds_at_the_start_ends_the_process() -> None:
    @producer(exchange="in", id="p")
    async def source() -> Any:
        return object()

    async with runner(source) as running:
        with pytest.raises(ConfigurationError, match=r"source \(.*\): an object of type object cannot be encoded"):
            await running.finished()


@pytest.mark.parametrize("every", [None, "1h", "0 0 1 1 *"])
async def test_until_idle_handles_everything_else_and_fails_at_the_end(
    monkeypatch: pytest.MonkeyPatch, every: str | None
) -> None:
    monkeypatch.setattr("mqasync.core.feed.FIRST_PAUSE", 0.01)
    seen: list[int] = []
    runs = 0

    @producer(exchange="in", id="bad", every=every)
    async def bad() -> Any:
        nonlocal runs
        runs += 1
        raise Panic("index out of bounds")

    @producer(exchange="in", id="good")
    async def good() -> Any:
        for n in range(300):
            yield {"n": n}

    async with runner(bad, good, until_idle=True, seen=seen) as running:
        with pytest.raises(MqasyncError, match=r"^in/bad has failed: Panic: index out of bounds"):
            await running.finished()
    assert (sorted(seen), runs) == (list(range(300)), 5)


def test_a_process_with_a_producer_that_fails_ends_with_1_when_it_is_idle(cli: CommandLine) -> None:
    cli.file(
        "mine.py",
        "import argparse\nfrom mqasync import consumer, producer\n"
        "@producer(exchange='in', id='bad')\nasync def bad(): argparse.ArgumentParser().parse_args(['--nonsense'])\n"
        "@producer(exchange='in', id='good')\nasync def good():\n    yield {'n': 1}\n"
        "@consumer(exchange='in', id='q')\nasync def q(body): print('handled', body['n'])\n",
    )
    done = cli.run("run", "mine", "--until-idle")
    assert (done.returncode, done.stdout) == (1, "handled 1\n"), done.stderr
    assert done.stderr.splitlines()[-1].startswith("mqasync: in/bad has failed: SystemExit: 2 ")
