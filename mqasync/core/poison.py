"""Poison: what came back again and again runs while no other handler does; nothing is sent or settled here.

A message that kills its process takes along what the process has in hand, and no broker tells who it was: most
count what a drain has put back as well. So what has come back SUSPECT_RETURNS times, the connections that this process
has lost and outlived not counted, is exchanged for a fresh copy, whose header says that it is about to run alone, for
the first time. A copy that comes back was in hand when the process died, and is exchanged for the next one; from the
second on none of them waits in hand for another. Only what comes back after MAX_ALONE of them is dead-lettered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress

from msgspec.structs import replace

from ..errors import InvalidMessage, MessageError, Reject
from ..message import Message
from ..transport import Delivery

SUSPECT_RETURNS = 3  # fewer can be a redeployment
MAX_RETURNS = 10  # whatever the cause: then a copy, which the broker begins to count anew, before it buries by itself
MAX_ALONE = 5  # times a message may come back after it has run alone
ALONE = "run-alone"  # header: how often it was about to
SETTLE_SECONDS = 0.05  # for the acknowledgements of what ran before to leave the process
ALONE_SECONDS = 5.0  # who waits or runs for longer holds up nobody any more


def read(delivery: Delivery) -> None:
    """Take our header out of its message; a stranger's says at most what ours may."""
    headers = dict(delivery.message.headers)
    said = headers.pop(ALONE)
    delivery.alone = min(int(said), MAX_ALONE) if said.isascii() and said.isdigit() and len(said) < 3 else 0
    delivery.message = replace(delivery.message, headers=headers)


def copy(delivery: Delivery, alone: int) -> Message:
    """The message, which says that it is about to run alone for the `alone`th time."""
    return replace(delivery.message, headers=delivery.message.headers | {ALONE: str(alone)})


def suspect(delivery: Delivery) -> bool:
    """True if this message may have killed its process, and has to be exchanged."""
    died = delivery.deaths >= (1 if delivery.alone else SUSPECT_RETURNS)
    return died and delivery.alone < MAX_ALONE and not delivery.unreadable


def problem(delivery: Delivery) -> MessageError | None:
    """Why it must not get to a handler."""
    if delivery.unreadable:
        return InvalidMessage(delivery.unreadable)
    if delivery.alone >= MAX_ALONE and delivery.deaths:
        return Reject(f"its process died {delivery.alone} times while it ran alone")
    return None


def worn(delivery: Delivery) -> bool:
    """True if its broker may dead-letter it soon for its many returns, which are nobody's fault."""
    return delivery.returned >= MAX_RETURNS and not suspect(delivery) and not problem(delivery)


class Quarantine:
    """Shared by all channels of a process; while it is `open` handlers may begin.

    `enter` before each of them, `leave` after it.
    """

    def __init__(self) -> None:
        self.open = True
        self._reopened: list[Callable[[], None]] = []
        self._held: list[Callable[[], Collection[Delivery]]] = []
        self._turn = asyncio.Lock()  # suspects run one after another
        self._empty = asyncio.Event()  # nobody runs
        self._empty.set()
        self._running = 0

    def join(self, reopened: Callable[[], None], held: Callable[[], Collection[Delivery]]) -> None:
        """One more channel: `reopened` is called when handlers may begin again, `held` is what it has in hand."""
        self._reopened.append(reopened)
        self._held.append(held)

    def too_many(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those of what has just come that must not wait in hand, as another one may kill the process."""
        alone = [one for one in deliveries if one.alone > 1 and not suspect(one) and not problem(one)]
        if not alone:
            return []
        others = [delivery for held in self._held for delivery in held() if delivery.alone and delivery not in alone]
        return alone if others else alone[1:]

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
        for go_on in self._reopened:
            go_on()
