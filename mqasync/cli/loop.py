"""The single event loop of a command, and the signals that end it; what runs in it is written elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

import click

from ..errors import MqasyncError

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOGETHER_SECONDS = 0.2  # `timeout`, `uv run` and their like pass on a signal that the terminal has sent to us as well


def run(work: Coroutine[Any, Any, None], *, kill: Callable[[], None] | None = None, obedient: bool = False) -> bool:
    """Run `work` on uvloop (asyncio's own loop where there is no uvloop); True when it has ended by itself.

    The first SIGINT or SIGTERM cancels it, which drains; a second one calls `kill` and ends the process at once
    with exit code 1: nothing is lost, what was in hand comes back. An `obedient` process says nothing and drains
    however many come: service managers send them to it and to its parent, and the parent decides.
    """
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        from uvloop import new_event_loop as new_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_until_signal(work, kill, obedient))


def result_of(work: Coroutine[Any, Any, T]) -> T:
    """`run`, and what `work` returns. Raises MqasyncError when a signal has ended it before its end."""
    results: list[T] = []

    async def keep() -> None:
        results.append(await work)

    if not run(keep()):
        raise MqasyncError("stopped before the end; nothing is lost")
    return results[0]


async def _until_signal(work: Coroutine[Any, Any, None], kill: Callable[[], None] | None, obedient: bool) -> bool:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    received: list[float] = []  # when
    say = click.get_current_context().obj.say

    def on_signal(number: int, frame: FrameType | None) -> None:
        # not loop.add_signal_handler: a handler that blocks the loop must not keep Ctrl-C from working
        now = time.monotonic()
        if received and (obedient or now - received[0] < TOGETHER_SECONDS):
            return
        if received:
            say("stopped at once; what was in hand comes back")
            if kill:
                kill()
            os._exit(1)
        received.append(now)
        if not obedient:
            say(f"{signal.Signals(number).name}: draining; once more to stop at once")
        loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        return False
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return True
