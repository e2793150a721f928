"""One STOMP connection: connect, heartbeats, requests and their receipts; no queue, no message of ours.

stompman's Client connects again and repeats by itself, runs a task for each message and, where it gives up,
cancels the task that opened it; here the core does what has to be done. So only stompman's frames are used.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import stompman

from ..errors import BrokerError, BrokerLost, BrokerRefused
from .activemq_errors import REPLY_SECONDS, answer, connecting, told
from .activemq_frames import Frame, FrameReader
from .activemq_url import Address
from .common import tls

SERVER = "ActiveMQ/"  # Artemis says "ActiveMQ-Artemis/"
MISSED_HEARTBEATS = 2
CLOSE_SECONDS = 3.0

Receiver = Callable[[Frame], None]


def frame(kind: type[Any], headers: Mapping[str, str]) -> Any:
    """A frame of stompman's, whose own types know no headers of ActiveMQ."""
    return kind(headers=dict(headers))


class StompConnection(asyncio.Protocol):
    """Good until `lose` or `close`; then everybody who waits, and everybody who comes, gets BrokerLost."""

    def __init__(self, address: Address, on_lost: Callable[[str], None]) -> None:
        self._address, self._on_lost = address, on_lost
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._why_lost = ""
        self._complaint = ""  # of the broker, answering no request; perhaps the reason why it then hangs up
        self._waiting: dict[str, asyncio.Future[Frame]] = {}  # by receipt; "" for CONNECTED
        self._receivers: dict[str, Receiver] = {}  # by subscription
        self._numbers = count(1)
        self._heard = 0.0
        self._longest_silence = math.inf

    async def open(self) -> None:
        """Connect. Raises BrokerLost, BrokerRefused, or ConfigurationError for files that cannot be used."""
        address = self._address
        context = tls.context(address.files) if address.encrypted else None
        loop = asyncio.get_running_loop()
        with connecting(address.encrypted):
            async with asyncio.timeout(REPLY_SECONDS):
                await loop.create_connection(lambda: self, address.host, address.port, ssl=context)
                connected = await self._connect()
        server = connected.headers.get("server", "")
        if not server.startswith(SERVER):
            raise BrokerRefused(f"it is {server[:60] or 'no ActiveMQ'}; this transport needs ActiveMQ Classic")
        promised = int(connected.headers.get("heart-beat", "0,0").partition(",")[0]) / 1000
        self._longest_silence = MISSED_HEARTBEATS * max(promised, address.heartbeat) if promised else math.inf
        self._beat(loop, address.heartbeat)

    async def _connect(self) -> Frame:
        beat = self._address.heartbeat * 1000
        headers = {"accept-version": "1.2", "host": self._address.host, "heart-beat": f"{beat},{beat}"}
        if self._address.user:
            headers |= {"login": self._address.user, "passcode": self._address.password}
        with self.awaited("") as connected:
            self.write(frame(stompman.ConnectFrame, headers))
            return await connected

    def _beat(self, loop: asyncio.AbstractEventLoop, seconds: int) -> None:
        """Show twice in each interval that we live, and see whether the broker does."""
        if self._why_lost or not self._transport:
            return
        if loop.time() - self._heard > self._longest_silence:
            self.lose(f"nothing was heard from it for {self._longest_silence:g} s")
            return
        self._transport.write(b"\n")
        loop.call_later(seconds / 2, self._beat, loop, seconds)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """For asyncio."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """For asyncio."""
        self._heard = asyncio.get_running_loop().time()
        try:
            for arrived in self._reader.feed(data):
                self._arrived(arrived)
        except ValueError:
            self.lose("it sent something that is not STOMP")

    def connection_lost(self, error: Exception | None) -> None:
        """For asyncio."""
        self.lose(str(error or self._complaint or "it closed the connection"))

    def _arrived(self, arrived: Frame) -> None:
        if arrived.command == "MESSAGE":
            receiver = self._receivers.get(arrived.headers.get("subscription", ""))
            if receiver and not self._why_lost:
                receiver(arrived)
            return
        waiting = self._waiting.pop(arrived.headers.get("receipt-id", ""), None)
        if arrived.command != "ERROR":
            if waiting and not waiting.done():
                waiting.set_result(arrived)
        elif waiting is None:
            self._complaint = str(told(arrived))
        elif not waiting.done():
            waiting.set_exception(told(arrived))

    def lose(self, why: str) -> None:
        """Give the connection up."""
        if self._why_lost:
            return
        self._why_lost = why
        if self._transport:
            self._transport.abort()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(BrokerLost(why))
                waiting.exception()  # perhaps nobody asks any more
        self._on_lost(why)

    def number(self) -> str:
        """A name for a subscription, transaction or receipt that this connection has not used."""
        return str(next(self._numbers))

    def write(self, *frames: Any) -> None:
        """Send without an answer. Raises BrokerLost."""
        if self._why_lost or not self._transport:
            raise BrokerLost(self._why_lost or "it is not connected")
        self._transport.write(b"".join(map(stompman.dump_frame, frames)))

    @contextmanager
    def awaited(self, key: str) -> Iterator[asyncio.Future[Frame]]:
        """A future that fails when the connection is lost, and is done by the receipt `key` or by others."""
        waiting: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[key] = waiting
        try:
            yield waiting
        finally:
            self._waiting.pop(key, None)

    async def request(self, *frames: Any, patient: bool = False) -> None:
        """Send and wait until the broker has done the last. Raises BrokerBusy when that takes long."""
        receipt = self.number()
        frames[-1].headers["receipt"] = receipt
        with self.awaited(receipt) as done:
            self.write(*frames)
            await answer(done, patient)

    async def subscribe(self, destination: str, receiver: Receiver, **headers: str) -> str:
        """Let `receiver` have what comes; return what `unsubscribe` takes."""
        id = self.number()
        self._receivers[id] = receiver
        try:
            await self.request(
                frame(stompman.SubscribeFrame, {"id": id, "destination": destination, "ack": "auto", **headers})
            )
        except BrokerError:
            with suppress(BrokerLost):
                self.unsubscribe(id)
            raise
        return id

    def unsubscribe(self, id: str) -> None:
        """What is not acknowledged goes back. Safe twice. Raises BrokerLost."""
        if self._receivers.pop(id, None):
            self.write(frame(stompman.UnsubscribeFrame, {"id": id}))

    async def close(self) -> None:
        """Say goodbye after everything that was sent before. Safe twice and in an outage."""
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.request(frame(stompman.DisconnectFrame, {}))
        self.lose("it was closed")
