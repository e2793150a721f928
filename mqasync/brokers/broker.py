"""Broker keeps one configured broker connected, Brokers finds it by exchange; no protocol, no handler.

A transport connects once and raises when the connection is lost; reconnecting, waiting and repeating calls
are done here, for all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..complaints import Complaints
from ..config.settings import Settings
from ..config.urls import each_host
from ..errors import BrokerBusy, BrokerLost, BrokerRefused, ConfigurationError, NoSuchQueue
from ..masking import masked
from ..message import Message
from .backoff import pause
from .connection import Connection, load
from .publisher import Publisher

log = logging.getLogger("mqasync")
T = TypeVar("T")

SILENT_SECONDS = 5.0  # a call that waits longer for an answer is warned about, once
CLOSE_SECONDS = 5.0


class Broker:
    """One broker of config.yml; connected when first used, reconnected when the connection is lost.

    Raises ConfigurationError for a wrong URL or option.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.address = masked(settings.brokers[name])
        self._urls = each_host(settings.brokers[name])  # tried in turn
        self._options = settings.native(name)
        features = load(self._urls[0], self._options).features
        self.durable, self.shared = features.durable, features.shared
        self._publisher = Publisher(self.call, settings.exchanges)
        self.publish = self._publisher.publish
        self.send = self._publisher.send
        self._transport: Connection | None = None
        self._connecting = asyncio.Lock()
        self._complaints = Complaints()
        self._failures = 0
        self._said = False  # logged that it does not work
        self.trouble = ""  # why it does not work, until it does
        self._ever_connected = False
        self._silent = self._closed = False
        self.reconnects = 0
        self._closing: set[asyncio.Task[None]] = set()  # transports that were lost

    @property
    def state(self) -> str:
        """`connected`, `not connected`, `blocked: why` or `silent`: connected, but it does not answer."""
        if self._transport is None:
            return "not connected"
        if self._transport.blocked:
            return f"blocked: {self._transport.blocked}"
        return "silent" if self._silent else "connected"

    async def connected(self) -> Connection:
        """The open connection; waits until the broker answers.

        On the first connect it raises BrokerRefused, or ConfigurationError for files that the URL names.
        After `close` it raises BrokerLost: a handler that was left behind must not open the broker again.
        """
        if self._transport is None:
            async with self._connecting:
                while self._transport is None:
                    if self._closed:
                        raise BrokerLost("the connection to the broker was closed")
                    self._transport = await self._connect()
        return self._transport

    async def _connect(self) -> Connection | None:
        if self._failures:
            await asyncio.sleep(pause(self._failures))
        transport = load(self._urls[self._failures % len(self._urls)], self._options)
        try:
            await transport.open()
        except (BrokerLost, BrokerBusy, BrokerRefused, ConfigurationError) as error:
            await transport.close()
            if not self._ever_connected and isinstance(error, BrokerRefused):
                raise self._refused(error) from None  # libraries repeat the password in their own errors
            if not self._ever_connected and isinstance(error, ConfigurationError):
                raise
            self._failed(error, "cannot be reached: {}; trying again")
            return None
        except BaseException:
            await transport.close()
            raise
        if transport.warning and not self._ever_connected:
            log.warning("broker %s at %s: %s", self.name, self.address, transport.warning)
        self.reconnects += self._ever_connected
        self._ever_connected = True
        return transport

    def lost(self, transport: Connection, error: BrokerLost) -> None:
        """Report that `transport` failed with `error`: the next use reconnects."""
        if self._transport is not transport or isinstance(error, NoSuchQueue):
            return  # reported before, or the connection is not lost
        self._transport = None
        self._failed(error, "is disconnected: {}; reconnecting")
        task = asyncio.ensure_future(transport.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _failed(self, error: Exception, what: str) -> None:
        """Warn once that it does not work; if it flaps, not more often than Complaints does."""
        self._failures += 1
        self.trouble = str(error)
        text = f"broker {self.name} at {self.address} {what.format(error)}"
        self._said = self._said or self._complaints.say(text)

    def _works(self) -> None:
        """A call succeeded: log that it works again, if it was logged that it does not."""
        if self._said:
            log.warning("broker %s at %s is connected again", self.name, self.address)
        self._failures, self._said, self.trouble = 0, False, ""

    async def call(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `operation` on the open connection, and repeat it while that is lost or the broker is busy."""
        refusals = 0
        while True:
            transport = await self.connected()
            watch = asyncio.get_running_loop().call_later(SILENT_SECONDS, self._complain, transport)
            try:
                result = await operation(transport)
            except NoSuchQueue:
                raise
            except BrokerLost as error:
                self.lost(transport, error)
            except BrokerRefused as error:
                raise self._refused(error) from None  # libraries repeat the password in their own errors
            except BrokerBusy as error:
                refusals += 1
                self._complaints.say(f"broker {self.name} at {self.address}: {error}; trying again")
                await asyncio.sleep(pause(refusals))
            else:
                self._works()
                self._answered()
                return result
            finally:
                watch.cancel()

    def _complain(self, transport: Connection) -> None:
        """Warn once that the broker does not answer, and why, if it said so."""
        if not self._silent:
            self._silent = True
            why = f"it is blocked: {transport.blocked}" if transport.blocked else "the connection is up"
            what = f"has not answered for {SILENT_SECONDS:g} s ({why}); waiting"
            log.warning("broker %s at %s %s", self.name, self.address, what)

    def _answered(self) -> None:
        if self._silent:
            self._silent = False
            log.warning("broker %s at %s answers again", self.name, self.address)

    def _refused(self, error: BrokerRefused) -> BrokerRefused:
        return BrokerRefused(f"broker {self.name} at {self.address}: {error}")

    async def close(self) -> None:
        """Close the connection, within seconds; publishes that still wait fail. It can be called twice."""
        self._closed = True
        await self._publisher.close()
        transport, self._transport = self._transport, None
        if transport:
            self._closing.add(asyncio.ensure_future(transport.close()))
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_SECONDS)


class Brokers:
    """All brokers of one process, by exchange; each is connected when first used."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.opened: dict[str, Broker] = {}

    def route(self, exchange: str) -> Broker:
        """The broker that carries `exchange`. Raises ConfigurationError for a wrong URL or option."""
        return self.named(self.settings.broker_of(exchange))

    def named(self, name: str) -> Broker:
        """The broker of that name in config.yml. Raises ConfigurationError for a wrong URL or option."""
        if name not in self.opened:
            self.opened[name] = Broker(name, self.settings)
        return self.opened[name]

    def publish(self, message: Message) -> asyncio.Future[None]:
        """Publisher.publish to the exchange of the message."""
        return self.route(message.exchange).publish(message.exchange, message)

    async def send(self, message: Message, id: str) -> bool:
        """Publisher.send to one queue of the exchange of the message."""
        return await self.route(message.exchange).send(message.exchange, id, message)

    async def close(self) -> None:
        """Close every broker."""
        for broker in self.opened.values():
            await broker.close()
