"""Calls: the calls to one transport, with time limits and translated errors; what they do is not known here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from ..errors import BrokerBusy, BrokerDamaged, BrokerLost, BrokerRefused, MqasyncError, NoSuchQueue
from ..transport import Errors, Transport
from ..transports.common.tls import why_for_good

T = TypeVar("T")

CALL_SECONDS = 10.0  # for every call but publish, send, receive and subscribe
PING_SECONDS = 5.0  # between two pings, and for the answer to one
PINGS = 3  # so many in a row without an answer end the transport
NO_TLS = "the URL scheme without TLS, or the port with TLS"
ENDED = "the connection ended"
WORDLESS: dict[type, str] = {asyncio.CancelledError: ENDED, Exception: ENDED, TimeoutError: "no answer in time"}


class Calls:
    """Calls to one transport. After the first BrokerLost or BrokerDamaged, or three unanswered pings, all raise it."""

    def __init__(self, transport: Transport) -> None:
        self.blocked = ""  # why the broker accepts no messages for now
        self._transport = transport
        self._end: MqasyncError | None = None  # why the connection has ended
        self._under_way: dict[asyncio.Future[Any], asyncio.Future[None]] = {}  # with the future that waits for each

    def check(self) -> None:
        """Raise BrokerLost if this connection has ended."""
        if self._end:
            raise type(self._end)(str(self._end))

    async def call(self, operation: Coroutine[Any, Any, T], limit: float | None = None) -> T:
        """The result of one call to the transport, its errors translated. Raises BrokerBusy after `limit` seconds."""
        if self._end:
            operation.close()
        self.check()
        task = asyncio.ensure_future(operation)
        try:
            return await self.result(task, limit)
        finally:
            abandon(task)  # client libraries swallow cancellations: it is not awaited

    async def result(self, task: asyncio.Future[T], limit: float | None = None) -> T:
        """Like call, but `task` goes on when this is cancelled or interrupted."""
        loop = asyncio.get_running_loop()
        waiter = self._under_way[task] = loop.create_future()
        task.add_done_callback(lambda _: wake(waiter))
        timer = loop.call_later(limit, wake, waiter) if limit is not None else None
        try:
            await waiter
        finally:
            if self._under_way.get(task) is waiter:
                del self._under_way[task]
            if timer:
                timer.cancel()
        if not task.done() and self._end is None:
            raise BrokerBusy(f"no answer within {limit:g} s")
        if not task.done() or task.cancelled():
            self.check()
        try:
            return task.result()
        except (Exception, asyncio.CancelledError) as error:  # libraries cancel what waits for a lost connection
            ours = translated(error, self._transport.errors)
        if isinstance(ours, BrokerLost | BrokerDamaged) and not isinstance(ours, NoSuchQueue):
            self.end(ours)
        raise ours from None

    def interrupt(self, task: asyncio.Future[Any]) -> None:
        """Cancel the caller that waits for the result of `task`, but not the task."""
        if waiter := self._under_way.get(task):
            waiter.cancel()

    def end(self, error: MqasyncError) -> None:
        """The connection has ended: all calls under way are given up and raise `error`."""
        if self._end is None:
            self._end = error
            for task, waiter in list(self._under_way.items()):
                abandon(task)
                wake(waiter)

    async def ping(self) -> None:
        """Ping the broker until it does not answer any more, which ends the transport."""
        silent = 0
        while silent < PINGS:
            asked = time.monotonic()
            task = asyncio.ensure_future(self._transport.ping())
            try:
                await asyncio.wait([task], timeout=PING_SECONDS)
            finally:
                abandon(task)
            if not task.done():
                silent += 1
                continue
            silent = 0
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            ours = translated(error, self._transport.errors) if error else None
            if isinstance(ours, BrokerLost):
                return self.end(ours)
            self.blocked = str(ours) if isinstance(ours, BrokerBusy) else ""
            await asyncio.sleep(PING_SECONDS - (time.monotonic() - asked))
        self.end(BrokerLost(f"no answer within {PINGS * PING_SECONDS:g} s"))


def translated(error: BaseException, errors: Errors) -> MqasyncError:
    """`error` of a client library as one of ours, with the first line of its text: no more of it may be shown."""
    if isinstance(error, MqasyncError):
        return error
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else WORDLESS.get(type(error), type(error).__name__)
    if why := next(filter(None, (why_for_good(one, NO_TLS) for one in _chain(error))), ""):
        return BrokerRefused(why)
    whole = f"{type(error).__name__}: {error}"
    for ours, signs, *words in errors:
        if any(sign in whole if isinstance(sign, str) else isinstance(error, sign) for sign in signs):
            return ours(*words or [text])
    return BrokerLost(text)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and its causes, each once: libraries that raise stored errors can make a circle of them."""
    seen: list[BaseException] = []
    while error and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def wake(waiter: asyncio.Future[None]) -> None:
    """Let the caller that waits for it continue."""
    if not waiter.done():
        waiter.set_result(None)


def abandon(task: asyncio.Future[Any] | None) -> None:
    """Cancel the task without waiting for its end, and ignore its error."""
    if task and task.done():
        unheard(task)  # now: the loop may end before it calls back
    elif task:
        task.cancel()
        task.add_done_callback(unheard)


def unheard(ended: asyncio.Future[Any]) -> None:
    """Retrieve its error, or asyncio would log that nobody did."""
    if not ended.cancelled():
        ended.exception()
