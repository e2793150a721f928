"""The single event loop of a process, the signals that end it, and an end in any case; what runs is written elsewhere.

What a handler has left behind must not keep a process: tasks that swallow their cancellation, threads that sleep,
code that blocks the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

from ..errors import MqasyncError
from ..handlers.attempt import LEFT_BEHIND, ended
from ..handlers.current_message import HANDLING
from ..handlers.failure import describe
from ..observe.logs import say

T = TypeVar("T")
log = logging.getLogger("mqasync")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOGETHER_SECONDS = 0.2  # `timeout`, `uv run` and their like pass on a signal that the terminal has sent to us as well
LATE_SECONDS = 5.0  # how long after the grace time a process ends at the latest
TASK_SECONDS = 1.0  # for tasks that somebody has left behind


def run(
    work: Coroutine[Any, Any, T],
    *,
    kill: Callable[[], None] | None = None,
    obedient: bool = False,
    grace: float | None = None,
) -> T:
    """Run `work` on uvloop (asyncio's own loop where there is no uvloop), and return what it does.

    The first SIGINT or SIGTERM cancels it, which drains; a second one calls `kill` and ends the process immediately
    with exit code 1: nothing is lost, messages in flight are redelivered. An `obedient` process logs nothing and drains
    however many come: service managers send them to it and to its parent, and the parent decides.
    With `grace` the process ends `grace` and LATE_SECONDS after the first signal, whatever keeps it.
    Raises MqasyncError for work that a signal has ended early, and that does not handle its cancellation.
    """
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        from uvloop import new_event_loop as new_loop
    loop = new_loop()
    threads = Threads()
    loop.set_default_executor(threads)
    asyncio.set_event_loop(loop)
    task = loop.create_task(work)
    received: list[float] = []  # when

    def on_signal(number: int, frame: FrameType | None) -> None:
        # not loop.add_signal_handler: a handler that blocks the loop must not keep Ctrl-C from working
        now = time.monotonic()
        if received and (obedient or now - received[0] < TOGETHER_SECONDS):
            return
        if received:
            say("forced shutdown; messages in flight will be redelivered")
            if kill:
                kill()
            os._exit(1)
        received.append(now)
        if not obedient:
            say(f"{signal.Signals(number).name}: draining; once more forces the shutdown")
        if grace is not None:
            end_within(grace + LATE_SECONDS, 0)
        with suppress(RuntimeError):  # the loop has been closed a moment ago
            loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        return _complete(loop, task)
    except asyncio.CancelledError:
        if not received:
            raise
        raise MqasyncError("stopped before the end; nothing is lost") from None
    finally:
        _close(loop, threads)
        for number, handler in before.items():
            signal.signal(number, handler)


def _complete(loop: asyncio.AbstractEventLoop, task: asyncio.Task[T]) -> T:
    """What `task` returns, whatever another one raises: a SystemExit ends the loop, which then goes on."""
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            log.warning("a task or a callback raised %s; the process goes on", describe(error))


def _close(loop: asyncio.AbstractEventLoop, threads: Threads) -> None:
    """End what is left in the loop, and the loop itself where nothing stays."""

    async def end_tasks() -> bool:
        tasks = [task for task in asyncio.all_tasks() if task not in LEFT_BEHIND and task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if not await ended(tasks, TASK_SECONDS) or stuck():
            return False
        closing = asyncio.create_task(loop.shutdown_asyncgens(), name="an async generator")
        return await ended([closing], TASK_SECONDS)

    all_ended = _complete(loop, loop.create_task(end_tasks()))
    threads.shutdown(wait=False, cancel_futures=True)
    for name in threads.busy():
        log.warning("a thread of %s is still running, although its message was requeued: the process ends soon", name)
    if all_ended:
        loop.close()


def stuck() -> bool:
    """Whether there are tasks that only the end of the process ends."""
    return any(not task.done() for task in LEFT_BEHIND)


class Threads(ThreadPoolExecutor):
    """Those of asyncio.to_thread; it knows who waits for them."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="mqasync")
        self._working: dict[Future[Any], str] = {}

    def submit(self, function: Callable[..., T], /, *args: Any, **named: Any) -> Future[T]:
        """As everybody's, and notes which queue's handler asks."""
        future = super().submit(function, *args, **named)
        if handling := HANDLING.get():
            self._working[future] = f"a handler of {handling.exchange}/{handling.id}"
            future.add_done_callback(self._working.pop)
        return future

    def busy(self) -> list[str]:
        """Those that have not ended."""
        return sorted(set(self._working.values()))


def end_within(seconds: float, code: int) -> None:
    """End the process after so many seconds with exit code `code`, whatever it does, unless it has ended before."""

    def end() -> None:
        time.sleep(seconds)
        frames = sys._current_frames()
        threads = [thread for thread in threading.enumerate() if not thread.daemon]
        others = [thread for thread in threads if thread is not threading.main_thread()]  # which may only wait for them
        places = [(thread.name, frames.get(thread.ident or 0)) for thread in others or threads]
        busy = [f"{name} ({frame.f_code.co_filename}, line {frame.f_lineno})" for name, frame in places if frame]
        log.warning("the process ends although these threads are still running: %s", ", ".join(busy))
        leave(code)

    threading.Thread(target=end, name="mqasync-end", daemon=True).start()


def finish(code: int) -> None:
    """See to it that the process, all of whose work is done, ends soon, with exit code `code`."""
    if stuck():
        leave(code)
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        end_within(LATE_SECONDS, code)  # Python waits for them


def leave(code: int) -> None:
    """End the process now; messages in flight are redelivered."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
