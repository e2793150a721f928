"""The single event loop of a command, and the signals that end it; what runs in it is written elsewhere."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any

log = logging.getLogger("mqasync")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` on uvloop (asyncio's own loop where there is no uvloop) until it ends.

    The first SIGINT or SIGTERM cancels it, which drains; a second one ends the process at once
    with exit code 1: nothing is lost, what was in hand comes back.
    """
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        from uvloop import new_event_loop as new_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_until_signal(work))


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        # not loop.add_signal_handler: a handler that blocks the loop must not keep Ctrl-C from working
        if received:
            sys.stderr.write("stopped at once; what was in hand comes back\n")
            sys.stderr.flush()
            os._exit(1)
        received.append(number)
        log.info("%s: draining; once more to stop at once", signal.Signals(number).name)
        loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
