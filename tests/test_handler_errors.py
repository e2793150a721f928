"""Whatever a handler raises, swallows or leaves behind costs an attempt of one message, and a shutdown seconds."""

import json
import signal
import time

import pytest

from .commands import CommandLine, Running

SERVICE = """
import argparse, asyncio, contextvars, sys, threading, time
from contextlib import asynccontextmanager
from mqasync import Message, Reject, consumer, producer

SEEN = contextvars.ContextVar("SEEN", default="nothing")

class Panic(BaseException): ...

class Unspeakable(Exception):
    def __str__(self): raise Panic("no text")
    __repr__ = __str__

def throw(error): raise error

async def cancel_itself(catch):
    asyncio.current_task().cancel()
    if catch:
        try: await asyncio.sleep(1)
        except asyncio.CancelledError: pass

async def in_a_group(*functions):
    async with asyncio.TaskGroup() as group:
        for function in functions:
            group.create_task(function())

async def look_up(error):
    throw(error)

async def for_ever():
    while True:
        try: await asyncio.sleep(60)
        except BaseException: pass

{code}
"""
HANDLER = """
@consumer(exchange="in", id="q", concurrency={concurrency}, retries={retries}, backoff=0.0)
async def handler(body: dict, message: Message):
    if body["n"] % 2:
        {bad}
    print("handled", body["n"])
"""
BAD = {
    "a panic": ('throw(Panic("index out of bounds"))', "Panic", "index out of bounds"),
    "a base group": (
        'throw(BaseExceptionGroup("two", [Panic("a"), KeyError("b")]))',
        "Panic",
        "Panic: a; KeyError: 'b'",
    ),
    "GeneratorExit": ("throw(GeneratorExit())", "GeneratorExit", ""),
    "CancelledError": ("throw(asyncio.CancelledError())", "CancelledError", ""),
    "its own cancellation": ("await cancel_itself(False); await asyncio.sleep(0)", "CancelledError", ""),
    "argparse": ('argparse.ArgumentParser().parse_args(["--no"])', "SystemExit", "2"),
    "sys.exit in a task group": ("await in_a_group(lambda: look_up(SystemExit(7)))", "SystemExit", "7"),
    "KeyboardInterrupt": ("throw(KeyboardInterrupt())", "KeyboardInterrupt", ""),
    "no text": ("throw(Unspeakable())", "Unspeakable", "it has no text"),
    "a key without text": ("throw(KeyError(Unspeakable()))", "KeyError", "it has no text"),
    "a task group": (
        'await in_a_group(lambda: look_up(KeyError("a")), lambda: look_up(ValueError("b")))',
        "ValueError",
        "KeyError: 'a'; ValueError: b",
    ),
}


def service(cli: CommandLine, code: str) -> None:
    cli.file("victim.py", SERVICE.replace("{code}", code))
    cli.declare("in", "q")


def numbers(cli: CommandLine, count: int) -> None:
    cli.publish("in", *(json.dumps({"n": n}) for n in range(count)))


def letters(cli: CommandLine, *options: str) -> list[dict[str, str]]:
    done = cli.run("dead", "export", "in", "q", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["headers"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("what", BAD)
def test_any_exception_costs_the_attempts_of_its_message_and_nothing_else(cli: CommandLine, what: str) -> None:
    bad, kind, text = BAD[what]
    service(cli, HANDLER.format(bad=bad, concurrency=1, retries=1))
    numbers(cli, 6)
    done = cli.run("run", "victim", "--until-idle")
    # Then the others are handled and these are tried twice, and dead-lettered with what was raised
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "handled 0", "handled 2", "handled 4"]
    found = letters(cli, "--reason", kind)
    assert len(found) == 3
    assert {(letter["dead-attempts"], text in letter["dead-message"]) for letter in found} == {("2", True)}
    assert kind in done.stderr
    assert text in cli.run("dead", "list", "in", "q").stdout


REJECT = 'Reject("no such host")'
NOT_AN_ADDRESS = 'Reject("no address")'


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (f"await in_a_group(lambda: look_up({REJECT}), lambda: look_up({NOT_AN_ADDRESS}))", "no such host; no address"),
        (f'throw(ExceptionGroup("outer", [ExceptionGroup("inner", [{REJECT}])]))', "no such host"),
        (f'throw(BaseExceptionGroup("outer", [{REJECT}, ExceptionGroup("inner", [{NOT_AN_ADDRESS}])]))', "no address"),
    ],
)
def test_a_group_of_nothing_but_rejects_is_a_reject(cli: CommandLine, bad: str, said: str) -> None:
    service(cli, HANDLER.format(bad=bad, concurrency=1, retries=5))
    numbers(cli, 2)
    assert cli.run("run", "victim", "--until-idle").returncode == 0
    (letter,) = letters(cli, "--reason", "rejected")
    assert (letter["dead-attempts"], said in letter["dead-message"]) == ("1", True)
    assert "dead-traceback" not in letter


def test_context_variables_of_a_message_are_its_own_and_those_of_lifespan_are_everybodys(cli: CommandLine) -> None:
    code = """
@asynccontextmanager
async def lifespan():
    SEEN.set("lifespan")
    yield

@producer(exchange="in", id="p")
async def numbers():
    print("producer:", SEEN.get())
    yield from_one()

def from_one(): return {"n": 1}

@consumer(exchange="in", id="q", concurrency=1)
async def one(body: dict):
    print("one:", SEEN.get())
    SEEN.set(f"message {body['n']}")

@consumer(exchange="batches", id="q", batch_size=1)
async def many(bodies: list[dict]):
    print("many:", SEEN.get())
    SEEN.set("batch")
"""
    service(cli, code)
    cli.declare("batches", "q")
    cli.publish("batches", '{"n": 1}', '{"n": 2}')
    numbers(cli, 2)
    done = cli.run("run", "victim", "--until-idle")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {"producer: lifespan", "one: lifespan", "many: lifespan"}


STUCK_HANDLER = """
@consumer(exchange="in", id="q", to="out")
async def stuck(body: dict):
    print("at work", flush=True)
    {}

@consumer(exchange="out", id="q")
async def sink(body: dict): ...
"""
HANDLER_AT_WORK = """
@consumer(exchange="in", id="q")
async def handler(body: dict):
    print("at work")
    await asyncio.sleep(60)
"""
LIFESPAN = """
@asynccontextmanager
async def lifespan():
    {}
    await for_ever()
    yield
"""
STUCK = {
    "a handler that swallows its cancellation": (STUCK_HANDLER.format("await for_ever()"), "stuck"),
    "a finally that takes its time": (
        STUCK_HANDLER.format("try: await asyncio.sleep(60)\n    finally: await asyncio.sleep(60)"),
        "stuck",
    ),
    "a generator that goes on": (
        STUCK_HANDLER.format("""while True:
        try: await asyncio.sleep(0.01)
        except BaseException: pass
        try: yield {}
        except BaseException: pass"""),
        "stuck",
    ),
    "a thread": (STUCK_HANDLER.format("await asyncio.to_thread(time.sleep, 25)"), "a thread of a handler of in/q"),
    "a thread of its own": (
        STUCK_HANDLER.format(
            "threading.Thread(target=time.sleep, args=[25], name='mine').start(); await asyncio.sleep(60)"
        ),
        "mine",
    ),
    "a loop that is blocked": (STUCK_HANDLER.format("time.sleep(25)"), "victim.py"),
    "a task left behind": (
        STUCK_HANDLER.format("global task; task = asyncio.create_task(for_ever()); await asyncio.sleep(60)"),
        "task for_ever",
    ),
    "lifespan at its end": (LIFESPAN.format("yield") + HANDLER_AT_WORK, "lifespan() of victim"),
    "lifespan at its start": (LIFESPAN.format("print('at work')") + HANDLER_AT_WORK, "lifespan() of victim"),
    "a producer that swallows its cancellation": (
        """
@producer(exchange="in", id="p")
async def stuck():
    await for_ever()
"""
        + HANDLER_AT_WORK,
        "the producer in/p",
    ),
}


@pytest.mark.parametrize("what", STUCK)
def test_every_shutdown_is_bounded_and_says_who_was_in_the_way(cli: CommandLine, what: str) -> None:
    code, name = STUCK[what]
    service(cli, code)
    numbers(cli, 1)
    running: Running = cli.start("run", "victim", "--grace", "100ms")
    running.says("at work")
    started = time.monotonic()
    running.send(signal.SIGTERM)
    assert running.ends() == 0, running.errors.text()
    took = time.monotonic() - started
    errors = running.errors.text()
    assert took < 0.1 + 5 + 1.5, errors  # the last ones for a busy machine
    assert [line for line in errors.splitlines() if name in line and "on main" not in line], errors
    assert "Traceback" not in errors
    # Then what was in hand has been put back, or comes back
    cli.until_depth("in", "q", 1)


def test_ctrl_c_still_drains_after_a_handler_has_raised_keyboard_interrupt(cli: CommandLine) -> None:
    service(cli, HANDLER.format(bad="throw(KeyboardInterrupt())", concurrency=1, retries=0))
    running = cli.start("run", "victim")
    numbers(cli, 3)
    running.says("handled 2")
    running.send(signal.SIGINT)
    assert running.ends() == 0
    assert "draining" in running.errors.text()


def test_a_left_behind_task_that_exits_ends_nothing(cli: CommandLine) -> None:
    bad = "global task; task = asyncio.create_task(look_up(SystemExit(3))); await asyncio.sleep(0.1)"
    service(cli, HANDLER.format(bad=bad, concurrency=2, retries=0))
    numbers(cli, 4)
    done = cli.run("run", "victim", "--until-idle")
    assert (done.returncode, done.stdout.count("handled")) == (0, 4), done.stderr
    assert "SystemExit: 3" in done.stderr
