"""Broker: one configured broker kept connected, and publishing coalesced; no protocol, no handler.

Transports connect once and say when they are lost; connecting again, waiting and repeating
are done here, for all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .backoff import pause
from .config import Settings, masked
from .errors import BrokerLost, BrokerRefused, ConfigurationError, MessageTooLarge, MqasyncError, Unroutable
from .message import Message
from .transport import Transport
from .transports import load

log = logging.getLogger("mqasync")
T = TypeVar("T")
Waiting = list[tuple[Message, asyncio.Future[None]]]

BATCH = 256  # messages in one transport.publish
BATCHES = 8  # such calls under way for one exchange; what comes meanwhile waits and goes together
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts to connect
CLOSE_SECONDS = 5.0
MAX_HEADER_BYTES = 64 * 1024  # all of a message's headers fit in one AMQP frame of 128 KiB


class Broker:
    """One broker of config.yml; opened when first used, opened again when lost."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._url = settings.brokers[name]
        self.address = masked(self._url)
        self._exchanges = settings.exchanges
        self.durable = self._load().features.durable  # a wrong URL or option is told now, not at the first message
        self._transport: Transport | None = None
        self._connecting = asyncio.Lock()
        self._failures = 0
        self._ever_connected = False
        self._waiting: dict[str, Waiting] = defaultdict(list)
        self._under_way: dict[str, int] = defaultdict(int)
        self._tasks: set[asyncio.Task[None]] = set()

    def _load(self) -> Transport:
        return load(self._url, {name: exchange.options for name, exchange in self._exchanges.items()})

    async def connected(self) -> Transport:
        """The open transport; waits until the broker answers. Raises BrokerRefused on the first connect."""
        if self._transport is None:
            async with self._connecting:
                while self._transport is None:
                    self._transport = await self._connect()
        return self._transport

    async def _connect(self) -> Transport | None:
        if self._failures:
            await asyncio.sleep(pause(self._failures, FIRST_PAUSE, LONGEST_PAUSE))
        transport = self._load()
        try:
            await transport.open()
        except (BrokerLost, BrokerRefused) as error:
            await transport.close()
            if isinstance(error, BrokerRefused) and not self._ever_connected:
                raise BrokerRefused(f"broker {self.name} at {self.address}: {error}") from error
            self._failures += 1
            if self._failures == 1:
                log.warning("broker %s at %s cannot be reached: %s; trying again", self.name, self.address, error)
            return None
        except BaseException:
            await transport.close()
            raise
        if self._failures:
            log.warning("broker %s at %s is connected again", self.name, self.address)
        self._ever_connected = True
        return transport

    def lost(self, transport: Transport, error: BrokerLost) -> None:
        """Tell that `transport` failed with `error`: the next use connects anew."""
        if self._transport is not transport:
            return  # somebody else told already
        self._transport = None
        self._failures += 1
        if self._failures == 1:
            log.warning("broker %s at %s is lost: %s; connecting again", self.name, self.address, error)
        self._spawn(transport.close())

    async def call(self, operation: Callable[[Transport], Awaitable[T]]) -> T:
        """Run `operation` on the open transport, again and again until it is not lost on the way."""
        while True:
            transport = await self.connected()
            try:
                result = await operation(transport)
            except BrokerLost as error:
                self.lost(transport, error)
            else:
                self._failures = 0
                return result

    def publish(self, exchange: str, message: Message) -> asyncio.Future[None]:
        """A future that is done when the broker has the message safely; what is published meanwhile goes together.

        It fails with Unroutable (unless the exchange is `optional` in config.yml), MessageTooLarge
        or BrokerRefused; while the broker is away it waits.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        waiting = self._waiting[exchange]
        waiting.append((message, future))
        if len(waiting) == 1:
            loop.call_soon(self._flush, exchange)
        return future

    def _flush(self, exchange: str) -> None:
        while self._waiting[exchange] and self._under_way[exchange] < BATCHES:
            waiting = self._waiting[exchange]
            self._waiting[exchange] = waiting[BATCH:]
            self._under_way[exchange] += 1
            self._spawn(self._publish(exchange, waiting[:BATCH]))

    async def _publish(self, exchange: str, waiting: Waiting) -> None:
        error: Exception | None = None
        try:
            limit = (await self.connected()).features.max_bytes
            for message, future in waiting:
                problem = unfit(message, limit)
                if problem and not future.done():
                    future.set_exception(problem)
            waiting = [pair for pair in waiting if not pair[1].done()]
            if waiting:
                await self.call(lambda transport: transport.publish(exchange, [message for message, _ in waiting]))
        except Unroutable as unroutable:
            settings = self._exchanges.get(exchange)
            error = None if settings and settings.optional else unroutable
        except Exception as failure:
            error = failure
        except asyncio.CancelledError:
            error = BrokerLost(f"broker {self.name} was closed before it confirmed")
        finally:
            self._under_way[exchange] -= 1
        for _, future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self._flush(exchange)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Let go of the broker within CLOSE_SECONDS; publishes that are still waiting fail."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
        transport, self._transport = self._transport, None
        if transport:
            await asyncio.wait([asyncio.ensure_future(transport.close())], timeout=CLOSE_SECONDS)


def unfit(message: Message, limit: int) -> MqasyncError | None:
    """Why no broker can carry `message`, as an error to raise; None when it can."""
    try:
        size = len(f"{message.id}{message.producer}{message.key or ''}".encode())
        size += sum(len(name.encode()) + len(value.encode()) for name, value in message.headers.items())
    except (UnicodeEncodeError, AttributeError) as error:
        return ConfigurationError(f"id, key and headers are text that UTF-8 can carry: {error}")
    if size > MAX_HEADER_BYTES:
        return MessageTooLarge(f"headers of {size:,} bytes for {message.exchange!r}; {MAX_HEADER_BYTES:,} are allowed")
    if len(message.body) > limit:
        return MessageTooLarge(f"a body of {len(message.body):,} bytes for {message.exchange!r}; {limit:,} are allowed")
    return None


class Brokers:
    """All brokers of one process, by exchange; each is opened when first used."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.opened: dict[str, Broker] = {}

    def route(self, exchange: str) -> Broker:
        """The broker that carries `exchange`. Raises ConfigurationError for a wrong URL or option."""
        name = self.settings.broker_of(exchange)
        if name not in self.opened:
            self.opened[name] = Broker(name, self.settings)
        return self.opened[name]

    def publish(self, message: Message) -> asyncio.Future[None]:
        """Broker.publish by way of the exchange that the message names."""
        return self.route(message.exchange).publish(message.exchange, message)

    async def close(self) -> None:
        """Close every broker."""
        for broker in self.opened.values():
            await broker.close()
