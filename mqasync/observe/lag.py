"""LoopWatch: says which handler blocks the event loop; it measures and warns, and stops nothing.

A handler that computes or sleeps without `await` stops everything in the process: nothing is received,
heartbeats are missed, the broker drops the connection.
"""

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any, Self

from ..complaints import Complaints
from ..handler import where

TICK_SECONDS = 0.25
LATE_TICKS = 4  # so many without a sign of life from the loop are too many


class LoopWatch:
    """`with LoopWatch(handlers)` inside the event loop: a thread watches it. `lags` counts how often it was blocked."""

    def __init__(self, handlers: Iterable[Callable[..., Any]]) -> None:
        self.lags = 0
        self._handlers: dict[CodeType | None, Callable[..., Any]] = {
            getattr(inspect.unwrap(handler), "__code__", None): handler for handler in handlers
        }
        self._beats = 0
        self._complaints = Complaints()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mqasync-lag", daemon=True)

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._timer.cancel()
        self._thread.join()

    def _beat(self) -> None:
        """In the loop: a sign of life."""
        self._beats += 1
        self._timer = self._loop.call_later(TICK_SECONDS, self._beat)

    def _watch(self) -> None:
        """In the thread. It counts its own ticks, since a suspended machine is nobody's fault."""
        seen, missed = 0, 0
        while not self._ended.wait(TICK_SECONDS):
            missed = missed + 1 if self._beats == seen else 0
            seen = self._beats
            if missed == LATE_TICKS:
                self.lags += 1
                self._warn(sys._current_frames().get(self._loop_thread))

    def _warn(self, frame: FrameType | None) -> None:
        """Say who it is, at most once a minute for the same one."""
        inmost = f"{frame.f_code.co_filename}, line {frame.f_lineno}" if frame else "unknown"
        culprit = f"code at {inmost}"
        while frame:
            if handler := self._handlers.get(frame.f_code):
                culprit = where(handler)
                break
            frame = frame.f_back
        self._complaints.say(
            f"the event loop has been blocked for more than {TICK_SECONDS * LATE_TICKS:g} s by {culprit}, now at"
            f" {inmost}: nothing else runs, and the broker may drop the connection; use await, or asyncio.to_thread()"
            " for what cannot be awaited"
        )
