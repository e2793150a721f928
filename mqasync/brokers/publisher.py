"""Publisher: sends concurrent publishes to an exchange to the broker together; no connection is made here."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

from ..config.settings import ExchangeSettings
from ..errors import BrokerLost, ConfigurationError, MessageTooLarge, MqasyncError, NoSuchQueue, Unroutable
from ..message import Message
from .connection import Connection

log = logging.getLogger("mqasync")

BATCH = 256  # messages in one transport.publish
BATCHES = 64  # such calls under way for one exchange; later messages wait and are sent together
MAX_HEADER_BYTES = 64 * 1024  # all of a message's headers fit in one AMQP frame of 128 KiB

Waiting = list[tuple[Message, asyncio.Future[None]]]
Lane = tuple[str, str | None]
"""An exchange, and where it routes by key, the key: messages sent together are routed alike, with one outcome."""
T = TypeVar("T")


class Call(Protocol):
    """Broker.call."""

    async def __call__(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `operation` on the open connection, and repeat it when that is lost on the way."""


class Publisher:
    """Publishes through `call`."""

    def __init__(self, call: Call, exchanges: Mapping[str, ExchangeSettings]) -> None:
        self._call = call
        self._exchanges = exchanges
        self._required = {exchange: own.requires for exchange, own in exchanges.items() if own.requires}
        self._requiring = asyncio.Lock()
        self._prioritized = False  # a message had a priority
        self._said = False  # logged that the broker has no priorities
        self._by_key = {exchange for exchange, own in exchanges.items() if "type" in own.options}
        self._waiting: dict[Lane, Waiting] = defaultdict(list)
        self._under_way: dict[Lane, set[asyncio.Task[None]]] = defaultdict(set)

    def publish(self, exchange: str, message: Message) -> asyncio.Future[None]:
        """A future that is done when the broker has confirmed the message; it waits while the broker is away.

        It fails with Unroutable (unless the exchange is `optional` in config.yml), MessageTooLarge,
        ConfigurationError for text that UTF-8 cannot encode, BrokerRefused, or BrokerLost after close().
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._prioritized = self._prioritized or message.priority > 0
        lane = exchange, message.key if exchange in self._by_key else None
        waiting = self._waiting[lane]
        waiting.append((message, future))
        if len(waiting) == 1:
            self._flush(lane)
        return future

    def _flush(self, lane: Lane) -> None:
        """Begin a call for the waiting messages, and those that are added in this turn of the event loop."""
        under_way = self._under_way[lane]
        if self._waiting[lane] and len(under_way) < BATCHES:
            task = asyncio.create_task(self._publish(lane))
            under_way.add(task)
            task.add_done_callback(partial(self._published, lane))

    def _published(self, lane: Lane, task: asyncio.Task[None]) -> None:
        under_way = self._under_way[lane]
        full = len(under_way) == BATCHES  # else a call has begun, or is about to, for all that waits
        under_way.discard(task)
        if full:
            self._flush(lane)
        elif not under_way and not self._waiting[lane]:  # there may be as many keys as messages
            del self._under_way[lane], self._waiting[lane]

    async def _publish(self, lane: Lane) -> None:
        """One call to the transport, and its outcome for every future that waits for it."""
        exchange = lane[0]
        waiting = self._waiting[lane]
        batch, self._waiting[lane] = waiting[:BATCH], waiting[BATCH:]
        self._flush(lane)

        async def operation(transport: Connection) -> None:
            if exchange in self._required:
                await self._require(transport, exchange)
            if self._prioritized and not (self._said or transport.features.priorities):
                self._said = True
                log.warning("the broker of exchange %r has no priorities: messages with one wait their turn", exchange)
            if messages := carriable(batch, transport.features.max_bytes):
                await transport.publish(exchange, messages)

        error: Exception | None = None
        try:
            await self._call(operation)
        except Unroutable as unroutable:
            settings = self._exchanges.get(exchange)
            error = None if settings and settings.optional else unroutable
        except Exception as failure:
            error = failure
        except asyncio.CancelledError:
            error = BrokerLost(f"the connection was closed before the broker of {exchange!r} confirmed the message")
        tell(batch, error)

    async def _require(self, transport: Connection, exchange: str) -> None:
        """Once, before the first publish to the exchange: declare the queues that it `requires` in config.yml."""
        async with self._requiring:
            for id in self._required.get(exchange, ()):
                await transport.declare(exchange, id)
            self._required.pop(exchange, None)

    async def send(self, exchange: str, id: str, message: Message) -> bool:
        """Transport.send of one message; False if the queue does not exist. Raises MessageTooLarge."""

        async def operation(transport: Connection) -> bool:
            if problem := unfit(message, transport.features.max_bytes):
                raise problem
            try:
                await transport.send(exchange, id, [message])
            except NoSuchQueue:
                return False
            return True

        return await self._call(operation)

    async def close(self) -> None:
        """Give up publishes that are not confirmed: they fail."""
        for lane, under_way in list(self._under_way.items()):
            closed = BrokerLost(f"the connection was closed before the broker of {lane[0]!r} confirmed the message")
            tell(self._waiting.pop(lane, []), closed)
            tasks = list(under_way)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def carriable(batch: Waiting, max_bytes: int) -> Sequence[Message]:
    """The messages of a batch that are still awaited and that the broker can carry; the others' futures fail."""
    for message, future in batch:
        if not future.done() and (problem := unfit(message, max_bytes)):
            future.set_exception(problem)
    return [message for message, future in batch if not future.done()]


def tell(batch: Waiting, error: Exception | None) -> None:
    """Give the outcome to every future that still waits for it."""
    for future in (future for _, future in batch if not future.done()):
        if error:
            future.set_exception(error)
        else:
            future.set_result(None)


def unfit(message: Message, max_bytes: float = math.inf) -> MqasyncError | None:
    """Why no broker can carry `message`, as an error to raise; None when it can."""
    try:
        headers = *message.headers, *message.headers.values()
        size = len("".join((message.id, message.producer, message.key or "", *headers)).encode())
    except (UnicodeEncodeError, AttributeError, TypeError) as error:
        return ConfigurationError(f"id, key and headers must be text that UTF-8 can encode: {error}")
    if size > MAX_HEADER_BYTES:
        return MessageTooLarge(f"headers of {size:,} bytes for {message.exchange!r}; {MAX_HEADER_BYTES:,} are allowed")
    if len(message.body) > max_bytes:
        return MessageTooLarge(
            f"a body of {len(message.body):,} bytes for {message.exchange!r}; {max_bytes:,} are allowed"
        )
    return None
