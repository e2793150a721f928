"""Quarantine: what came back from dead processes runs while no other handler does; nothing is counted or settled here.

A message that kills its process takes along what the process has in hand. Run alone and in random order,
the innocents among the suspects are handled and acknowledged before it strikes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from ..errors import InvalidMessage, MessageError, Reject
from ..transport import Delivery

MAX_RETURNS = 10  # times a message may come back from dead processes; at 20 RabbitMQ would bury it without a reason
SUSPECT_RETURNS = 3  # fewer can be a redeployment: RabbitMQ counts what a drain put back as well
SETTLE_SECONDS = 0.05  # for the acknowledgements of what ran before to leave the process
ALONE_SECONDS = 5.0  # who waits or runs for longer holds up nobody any more


def suspect(delivery: Delivery) -> bool:
    """True if this message may have killed its process."""
    return delivery.returned >= SUSPECT_RETURNS


def needs_care(delivery: Delivery) -> bool:
    """True if it does not simply get to a handler."""
    return delivery.returned >= SUSPECT_RETURNS or bool(delivery.unreadable)


class Quarantine:
    """Shared by all channels of a process. While it is `open` any handler may begin: `enter` before it, `leave` after.

    What is in `reopened` is called when handlers may begin again.
    """

    def __init__(self) -> None:
        self.open = True
        self.reopened: list[Callable[[], None]] = []
        self._turn = asyncio.Lock()  # suspects run one after another
        self._empty = asyncio.Event()  # nobody runs
        self._empty.set()
        self._running = 0

    def enter(self) -> None:
        """A handler begins."""
        self._running += 1
        self._empty.clear()

    def leave(self) -> None:
        """It has ended."""
        self._running -= 1
        if not self._running:
            self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """In the block a suspect runs: those that run have left, and no other handler begins.

        Neither waiting nor running shuts the others out for longer than ALONE_SECONDS: a slow handler must
        not stop every queue of the process.
        """
        async with self._turn:
            self.open = False
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(ALONE_SECONDS):
                        await self._empty.wait()
                await asyncio.sleep(SETTLE_SECONDS)
                timer = asyncio.get_running_loop().call_later(ALONE_SECONDS, self._reopen)
                self.enter()
                try:
                    yield
                finally:
                    timer.cancel()
                    self.leave()
            finally:
                self._reopen()

    def _reopen(self) -> None:
        self.open = True
        for go_on in self.reopened:
            go_on()


def problem(delivery: Delivery) -> MessageError | None:
    """Why it must not get to a handler."""
    if delivery.unreadable:
        return InvalidMessage(delivery.unreadable)
    if delivery.returned > MAX_RETURNS:
        return Reject(f"its process died {delivery.returned} times with it in hand")
    return None
