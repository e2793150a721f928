"""Connection: one transport from open() to its end, and what it need not do itself; no reconnecting here.

It remembers which queues are declared and bound, splits calls that are too large, and does the delays that are too
long for the broker.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec.structs import replace

from .. import transports
from ..errors import BrokerBusy, BrokerLost, NoSuchQueue, Unroutable
from ..message import Message
from ..transport import Options, QueueStats, Transport
from ..transports.common.envelope import DUE
from ..transports.common.url import existing
from .calls import CALL_SECONDS, Calls, abandon
from .inbox import Inbox

KNOWN_SECONDS = 10.0  # how long it is remembered that a queue exists, or that one is bound
CLOSE_SECONDS = 3.0  # for requeuing at the end
BUSY_PAUSE = 0.5  # seconds before a portion is sent again for which the broker was too busy


class Connection:
    """One open transport. After the first BrokerLost every call raises it."""

    def __init__(self, transport: Transport, options: Options | None = None) -> None:
        self.features, self.warning = transport.features, ""
        self._options = options or {}
        self._transport = transport
        self._calls = Calls(transport)
        self._known: dict[tuple[str, str], float] = {}  # existing queues, and when that was seen
        self._bound: dict[str, float] = {}  # exchanges with a queue, and when that was seen
        self._inboxes: list[Inbox] = []
        self._pinging: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def blocked(self) -> str:
        """Why the broker accepts no messages for now, where it says so; else empty."""
        return self._calls.blocked

    async def open(self) -> None:
        """Connect. Raises BrokerLost, BrokerBusy, BrokerRefused or ConfigurationError."""
        await self._calls.call(self._transport.open(), CALL_SECONDS)
        self.features, self.warning = self._transport.features, self._transport.warning  # as this server has them
        self._pinging = asyncio.create_task(self._calls.ping())

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """See Transport.declare. Raises BrokerRefused where the queue exists with other arguments."""
        temporary = temporary and self.features.temporary
        await self._calls.call(self._transport.declare(exchange, id, bound, temporary), CALL_SECONDS)
        self._known[exchange, id] = time.monotonic()
        if bound and not existing(self._options, exchange, id):  # that need not get what is published
            self._bound[exchange] = time.monotonic()

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Return when the broker has confirmed all of them. Raises Unroutable, BrokerBusy and BrokerLost."""
        try:
            if time.monotonic() - self._bound.get(exchange, -KNOWN_SECONDS) >= KNOWN_SECONDS:
                if not await self._calls.call(self._transport.bound(exchange), CALL_SECONDS):
                    raise Unroutable("no queue is bound")
                self._bound[exchange] = time.monotonic()
            await self._each(messages, lambda some: self._transport.publish(exchange, some))
        except (NoSuchQueue, Unroutable) as error:
            self._bound.pop(exchange, None)
            raise Unroutable(f"no queue is bound to exchange {exchange!r}") from error

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Publish to one queue, to be received in `delay` seconds, or up to a second later. Raises NoSuchQueue."""
        if time.monotonic() - self._known.get((exchange, id), -KNOWN_SECONDS) >= KNOWN_SECONDS:
            if await self.stats(exchange, id) is None:
                raise NoSuchQueue(f"exchange {exchange!r} has no queue {id!r}")
            self._known[exchange, id] = time.monotonic()
        step = min(delay, self.features.max_delay)
        if step < delay:
            due = {DUE: f"{time.time() + delay:.3f}"}
            messages = [replace(message, headers=message.headers | due) for message in messages]
        try:
            await self._each(messages, lambda some: self._transport.send(exchange, id, some, step))
        except NoSuchQueue:
            self._known.pop((exchange, id), None)
            raise

    async def _each(
        self, messages: Sequence[Message], call: Callable[[Sequence[Message]], Coroutine[Any, Any, None]]
    ) -> None:
        """One call for each portion of the messages, one after another: brokers may keep their order.

        Once the broker has accepted one portion, BrokerBusy is retried here, so that no portion is sent twice.
        """
        for place, some in enumerate(split(messages, self.features.batch, self.features.batch_bytes)):
            while True:
                try:
                    await self._calls.call(call(some))
                    break
                except BrokerBusy:
                    if place == 0:
                        raise
                await asyncio.sleep(BUSY_PAUSE)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> Inbox:
        """Start to receive from a declared queue. Raises NoSuchQueue, BrokerBusy and BrokerLost."""
        inner = await self._calls.call(self._transport.subscribe(exchange, id, prefetch))

        inbox = Inbox(self._calls, inner, self.features, prefetch, partial(self.send, exchange, id))
        self._inboxes = [one for one in self._inboxes if not one.left] + [inbox]
        return inbox

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """How many messages are in a queue now; None if it does not exist."""
        with suppress(NoSuchQueue):
            return await self._calls.call(self._transport.stats(exchange, id), CALL_SECONDS)
        return None

    async def queues(self) -> list[tuple[str, str]] | None:
        """(exchange, id) of every queue; None where the broker cannot list them."""
        return await self._calls.call(self._transport.queues(), CALL_SECONDS)

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the queue with its messages; no error if it does not exist."""
        self._known.pop((exchange, id), None)
        self._bound.pop(exchange, None)
        with suppress(NoSuchQueue):
            await self._calls.call(self._transport.delete(exchange, id), CALL_SECONDS)

    async def close(self) -> None:
        """Requeue unsettled messages and close everything, within seconds. Can be called twice, and in an outage."""
        if self._closed:
            return
        self._closed = True
        abandon(self._pinging)
        await self._within(CLOSE_SECONDS, *(inbox.give_up() for inbox in self._inboxes))
        self._calls.end(BrokerLost("the connection was closed"))
        await self._within(CALL_SECONDS, self._transport.close())

    async def _within(self, limit: float, *operations: Coroutine[Any, Any, None]) -> None:
        """Run them concurrently, and abandon those that have not ended after `limit` seconds; errors are ignored."""
        tasks = [asyncio.ensure_future(operation) for operation in operations]
        if tasks:
            await asyncio.wait(tasks, timeout=limit)
        for task in tasks:
            abandon(task)


def split(messages: Sequence[Message], batch: int, most: float) -> Iterator[Sequence[Message]]:
    """`messages` in portions of at most `batch` messages and about `most` bytes."""
    start = size = 0
    for end, message in enumerate(messages if most < math.inf or len(messages) > batch else ()):
        bytes = len(message.body) + sum(map(len, (*message.headers, *message.headers.values())))
        if end > start and (end - start == batch or size + bytes > most):
            yield messages[start:end]
            start, size = end, 0
        size += bytes
    yield messages[start:]


def load(url: str, options: Options | None = None) -> Connection:
    """The connection to the broker at `url`, not opened yet. Raises ConfigurationError."""
    return Connection(transports.load(url, options), options)
