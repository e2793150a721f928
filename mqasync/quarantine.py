"""Quarantine: what came back from dead processes runs while no other handler does; nothing is counted or settled here.

A message that kills its process takes along what the process has in hand. Run alone and in random order,
the innocents among the suspects are handled and acknowledged before it strikes again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from .errors import InvalidMessage, Reject
from .transport import Delivery

MAX_RETURNS = 10  # times a message may come back from dead processes; at 20 RabbitMQ would bury it without a reason
SUSPECT_RETURNS = 3  # fewer can be a redeployment: RabbitMQ counts what a drain put back as well
SETTLE_SECONDS = 0.05  # for the acknowledgements of what ran before to leave the process
ALONE_SECONDS = 5.0  # who waits or runs for longer holds up nobody any more


def suspect(delivery: Delivery) -> bool:
    """True if this message may have killed its process."""
    return delivery.returned >= SUSPECT_RETURNS


class Quarantine:
    """Shared by all channels of a process: `enter` before a handler runs, `leave` after."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()  # suspects run one after another
        self._open = asyncio.Event()  # nobody runs alone
        self._open.set()
        self._empty = asyncio.Event()  # nobody runs at all
        self._empty.set()
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, alone: bool) -> None:
        """Wait until no suspect runs; `alone`: then shut the others out and wait until they have left.

        Neither waiting nor running shuts them out for longer than ALONE_SECONDS: a slow handler must
        not stop every queue of the process.
        """
        if alone:
            await self._turn.acquire()
            try:
                await self._shut()
            except BaseException:
                self._end()
                raise
        else:
            await self._open.wait()
        self._running += 1
        self._empty.clear()

    async def _shut(self) -> None:
        self._open.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(ALONE_SECONDS):
                await self._empty.wait()
        await asyncio.sleep(SETTLE_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(ALONE_SECONDS, self._open.set)

    def leave(self, alone: bool) -> None:
        """The handler has returned."""
        self._running -= 1
        if not self._running:
            self._empty.set()
        if alone:
            self._end()

    def _end(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._open.set()
        self._turn.release()


def check(delivery: Delivery) -> None:
    """Raise if it must not get to a handler."""
    if delivery.unreadable:
        raise InvalidMessage(delivery.unreadable)
    if delivery.returned > MAX_RETURNS:
        raise Reject(f"its process died {delivery.returned} times with it in hand")
