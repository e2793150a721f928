"""Attempts: one run of a handler for a message or batch, up to its outcome; nothing is received or settled here.

Errors of handlers are caught here and nowhere else. Each attempt has its own task and context, so that what a handler
does to its task or context variables does not affect the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from contextvars import Context
from typing import Any, Literal
from weakref import WeakSet

import msgspec

from ..duration import seconds
from ..errors import ConfigurationError, Retry
from .current_message import HANDLING, Handling
from .failure import HOPELESS, plain
from .step import Run

log = logging.getLogger("mqasync")

STOP_SECONDS = 3.0  # how long a cancelled task may take to end
LEFT_BEHIND = WeakSet[asyncio.Task[Any]]()  # tasks that took longer


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended: done, failed, rejected (a retry cannot help), stopped by a shutdown, or postponed.

    `error`: what the handler raised; `delay`: by how many seconds it is postponed.
    """

    kind: Literal["done", "failed", "rejected", "stopped", "postponed"]
    error: BaseException | None = None
    delay: float = 0.0


DONE, STOPPED = Outcome("done"), Outcome("stopped")


Then = Callable[[Outcome], None]


def failed(error: BaseException) -> Outcome:
    """The outcome of an attempt that raised `error`."""
    error = plain(error)
    if isinstance(error, Retry):
        try:
            return Outcome("postponed", error, seconds(error.delay))
        except ConfigurationError as mistake:
            return Outcome("failed", mistake)
    return Outcome("rejected" if isinstance(error, HOPELESS) else "failed", error)


class Attempt:
    """`run(handling.messages)` in a new `task`; `outcome` is how it ended, whatever it raised.

    `then` is called with the outcome if it has begun and ended, still in the handler's task: it must not wait.
    """

    def __init__(
        self, run: Run, handling: Handling, name: str, context: Context | None = None, then: Then | None = None
    ) -> None:
        self.handling = handling
        self.outcome = STOPPED  # if it is cancelled before its first step
        self._stopping = False
        self._name = name
        self.task = asyncio.get_running_loop().create_task(self._run(run, then), context=context)

    async def _run(self, run: Run, then: Then | None) -> None:
        HANDLING.set(self.handling)
        try:
            await run(self.handling.messages)
            self.outcome = DONE
        except BaseException as error:  # SystemExit would end the loop; a cancellation may be the handler's own
            self.outcome = STOPPED if self._stopping else failed(error)
        if then:
            then(self.outcome)

    def stop(self) -> None:
        """Cancel it for a shutdown, which is not a failed attempt, whatever the handler raises then."""
        self._stopping = True
        self.task.set_name(self._name)  # for `ended`; a name costs a tenth of what the attempt does
        self.task.cancel()

    async def end(self) -> Outcome:
        """Wait for its end. Cancelled, it stops the handler."""
        try:
            await asyncio.wait([self.task])
        except asyncio.CancelledError:
            self.stop()
            raise
        return self.outcome


async def ended(tasks: Collection[asyncio.Task[Any]], within: float = STOP_SECONDS, then: str = "") -> bool:
    """Wait for cancelled tasks, at most `within` seconds; False, with a warning for each name, if some did not end.

    `then` is the end of the warning: what that leads to. A task is warned about once.
    """
    if not tasks:
        return True
    _, left = await asyncio.wait(tasks, timeout=within)
    for name, count in Counter(_name(task) for task in left if task not in LEFT_BEHIND).items():
        times = f" ({count} times)" if count > 1 else ""
        log.warning("%s%s does not stop although it was cancelled, and is left behind%s", name, times, then)
    LEFT_BEHIND.update(left)
    return not left


def _name(task: asyncio.Task[Any]) -> str:
    """The name that we gave the task; of other tasks, which code it runs."""
    name, code = task.get_name(), getattr(task.get_coro(), "cr_code", None)
    if not name.startswith("Task-") or code is None:
        return name
    return f"the task {code.co_qualname} ({code.co_filename}, line {code.co_firstlineno})"
