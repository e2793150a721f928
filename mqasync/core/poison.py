"""Poison messages: those redelivered too often run with no other handler; nothing is published or settled here.

When a message kills its process, all messages in flight there are redelivered, and no broker says which one it was;
most brokers also count messages that a drain has requeued. So a message that was redelivered SUSPECT_RETURNS times
(not counting connections that this process has lost and survived) is a suspect: it is replaced by a copy whose header
says that it is about to run alone for the first time. A copy that is redelivered was in flight when the process died,
and is replaced by the next copy. From the second copy on, no copy stays in flight while it waits for another one.
Only a message that is redelivered after MAX_ALONE copies is dead-lettered.
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
MAX_RETURNS = 10  # of any cause: then a copy, whose delivery count begins anew, before the broker dead-letters it
MAX_ALONE = 5  # times a message may be redelivered after it has run alone
ALONE = "run-alone"  # header: how often the message was about to run alone
SETTLE_SECONDS = 0.05  # for the acknowledgements of earlier messages to leave the process
ALONE_SECONDS = 5.0  # how long other handlers are held up by one that waits to run alone, or does


def read(delivery: Delivery) -> None:
    """Take our header out of its message; in a foreign message it is worth no more than ours can be."""
    headers = dict(delivery.message.headers)
    said = headers.pop(ALONE)
    delivery.alone = min(int(said), MAX_ALONE) if said.isascii() and said.isdigit() and len(said) < 3 else 0
    delivery.message = replace(delivery.message, headers=headers)


def copy(delivery: Delivery, alone: int) -> Message:
    """The message with the header that says that it is about to run alone for the `alone`th time."""
    return replace(delivery.message, headers=delivery.message.headers | {ALONE: str(alone)})


def suspect(delivery: Delivery) -> bool:
    """True if this message may have killed its process and has to be replaced by a copy."""
    died = delivery.deaths >= (1 if delivery.alone else SUSPECT_RETURNS)
    return died and delivery.alone < MAX_ALONE and not delivery.unreadable


def problem(delivery: Delivery) -> MessageError | None:
    """Why a handler must not get it, if so."""
    if delivery.unreadable:
        return InvalidMessage(delivery.unreadable)
    if delivery.alone >= MAX_ALONE and delivery.deaths:
        return Reject(f"its process died {delivery.alone} times while no other message was being handled")
    return None


def worn(delivery: Delivery) -> bool:
    """True if the broker may soon dead-letter it for its delivery count, though it did no harm."""
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
        self._empty = asyncio.Event()  # no handler runs
        self._empty.set()
        self._running = 0

    def join(self, reopened: Callable[[], None], held: Callable[[], Collection[Delivery]]) -> None:
        """Add a channel: `reopened` is called when handlers may begin again, `held` returns its messages in flight."""
        self._reopened.append(reopened)
        self._held.append(held)

    def too_many(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those just received that must not wait in flight, because another suspect may kill the process."""
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
        """A handler has ended."""
        self._running -= 1
        if not self._running:
            self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run a suspect in the block: earlier handlers have ended, and no other one begins.

        Waiting for them and running hold up other handlers for ALONE_SECONDS each at most: a slow handler must
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
