"""Attempts: one message or batch through one handler, up to an outcome; nothing is received, settled or counted here.

Here alone errors of handlers are caught. Each attempt has a task and a context of its own, so that nothing that a
handler does to its task or its context variables is there for the next one.
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

STOP_SECONDS = 3.0  # how long what was cancelled may take to end
LEFT_BEHIND = WeakSet[asyncio.Task[Any]]()  # those that took longer


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt has ended: done, failed, rejected (another is no use), stopped by a shutdown, or postponed.

    `error`: what the handler raised; `delay`: for how many seconds it is postponed.
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
    """`run(handling.messages)`, begun at once in `task`; `outcome` is how that has ended, whatever it raised.

    `then` is called with the outcome when it has begun and ended, still in the handler's task: it must not wait.
    """

    def __init__(
        self, run: Run, handling: Handling, name: str, context: Context | None = None, then: Then | None = None
    ) -> None:
        self.handling = handling
        self.outcome = STOPPED  # where it is cancelled before its first step
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
        """Cancel it: a shutdown is no failed attempt, whatever the handler makes of it."""
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
    """Wait for cancelled tasks, at most so many seconds; False, and a line for each name, where some have not ended.

    `then` says what that leads to. Of a task it is said once.
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
    """What we call it; of a task that somebody else has made, which code it runs."""
    name, code = task.get_name(), getattr(task.get_coro(), "cr_code", None)
    if not name.startswith("Task-") or code is None:
        return name
    return f"the task {code.co_qualname} ({code.co_filename}, line {code.co_firstlineno})"
