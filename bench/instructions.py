"""Instructions per message on the core path, counted by callgrind: a figure that a noisy machine does not change.

`python -m bench.instructions` counts and compares with instructions.json; `--write` writes that file.

Why that file was moved, from 188,000 for `handle` and 378,000 for `step`: a task and a context of its own for each
attempt (14,000 a message; what one handler does to its task or its context variables must not be there for the next);
messages in memory are packed and unpacked as on a real broker (10,000); no NaN gets out, and what is put out is text
(8,000); and what each transport did for itself is done once between it and the core, which the memory broker did not
have to do (20,000).
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from mqasync import Consumer, Producer, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.core.channel import Channel
from mqasync.handlers.step import Step

BASELINE = Path(__file__).with_name("instructions.json")
WARM, COUNT = 100, 400  # messages that are not counted, while everything is made that is made once, and those that are
IN_FLIGHT = 100
TOLERANCE = 0.05

EVENT = {"ip": "192.0.2.1", "source": "bench", "note": "x" * 206}


class Event(msgspec.Struct):
    """The same, typed."""

    ip: str
    source: str
    note: str


async def through(consumers: list[Consumer], exchange: str, done: asyncio.Event) -> None:
    """WARM and COUNT messages into `exchange` by Producer.produce, IN_FLIGHT at once; a pause whenever it is `done`."""
    brokers = Brokers(Settings(brokers={"main": "memory:bench"}))
    channels = [Channel(Step(one, brokers.publish, {}), brokers.route(one.exchange)) for one in consumers]
    for channel in channels:
        await channel.declare()
        channel.start()
    async with Producer(id="bench", exchange=exchange, broker="memory:bench") as producer:
        for count in (WARM, COUNT):
            done.clear()
            for _ in range(0, count, IN_FLIGHT):
                await asyncio.gather(*(producer.produce(EVENT) for _ in range(IN_FLIGHT)))
            await done.wait()
            print("done", flush=True)
            sys.stdin.readline()
    for channel in channels:
        await channel.drain(1.0)
    await brokers.close()


async def handle() -> None:
    """Publish, decode to a Struct, handle, acknowledge."""
    done, seen = asyncio.Event(), 0

    @consumer(exchange="in", id="q", prefetch=100)
    async def handler(event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen in (WARM, WARM + COUNT):
            done.set()

    await through([handler], "in", done)


async def step() -> None:
    """Publish, handle a dict, publish what the handler returns, handle that, acknowledge both."""
    done, seen = asyncio.Event(), 0

    @consumer(exchange="in", id="q", to="out", prefetch=100)
    async def first(event: dict[str, Any]) -> dict[str, Any]:
        return event

    @consumer(exchange="out", id="q", prefetch=100)
    async def second(event: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if seen in (WARM, WARM + COUNT):
            done.set()

    await through([first, second], "in", done)


PATHS: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {"handle": handle, "step": step}


def count_instructions(path: str) -> int:
    """Instructions for one message on that path."""
    valgrind = shutil.which("valgrind")
    assert valgrind, "valgrind is not installed"
    callgrind = [valgrind, "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null"]
    with subprocess.Popen(
        [*callgrind, sys.executable, "-m", "bench.instructions", path],
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        for counting in ("on", "off"):
            process.stdout.readline()
            subprocess.run(
                ["callgrind_control", f"--instr={counting}", str(process.pid)], capture_output=True, check=True
            )
            print(file=process.stdin, flush=True)
        found = re.search(r"Collected : (\d+)", printed := process.communicate()[1])
    assert found, printed
    return round(int(found[1]) / COUNT)


def main() -> None:
    """Count, then compare or write."""
    if sys.argv[1:2] and sys.argv[1] in PATHS:
        return asyncio.run(PATHS[sys.argv[1]]())
    counted = {path: count_instructions(path) for path in PATHS}
    if "--write" in sys.argv:
        BASELINE.write_text(json.dumps({"python": platform.python_version(), **counted}, indent=2) + "\n")
    baseline = json.loads(BASELINE.read_text())
    for path, count in counted.items():
        print(f"{path}: {count:,} instructions a message, {count / baseline[path] - 1:+.1%} of the baseline")


if __name__ == "__main__":
    main()
