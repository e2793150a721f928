"""One connection to NATS, good until it is lost: requests, answers and what is heard; no JetStream words here."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..errors import BrokerBusy, BrokerLost, BrokerRefused
from .nats_client import TolerantClient, connect
from .nats_errors import REPLY_SECONDS, broker_errors

CLOSE_SECONDS = 3.0
WATCH_SECONDS = 5.0  # ask so often whether the server is there
MISSED = 2  # so many times in a row without an answer: it is not

Request = tuple[str, bytes, Mapping[str, str] | None]
"""Subject, body and headers."""


class Connection:
    """nats-py's client without its reconnecting and buffering, which the core does instead."""

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self.lost = ""  # why
        self._on_lost = on_lost
        self._client = TolerantClient()
        self._inbox = self._client.new_inbox()
        self._numbers = itertools.count()
        self._waiting: dict[str, tuple[str, asyncio.Future[Msg]]] = {}  # by number, with the subject that was asked
        self._complaint: Exception | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None

    async def open(self, url: str, tls: ssl.SSLContext | None, credentials: Sequence[str]) -> None:
        """Connect; `credentials` are user and password, a token, or none. Raises BrokerLost or BrokerRefused."""
        await connect(self._client, url, tls, credentials, self._complain)
        # not by its callbacks: its close may fail half-way (a reset connection with something left to send)
        for task in (self._client._reading_task, self._client._flusher_task):
            assert task
            task.add_done_callback(self._ended)
        await self.hear(f"{self._inbox}.*", self._answered)
        self._watch = asyncio.create_task(self._look())

    @property
    def max_payload(self) -> int:
        """How large a message may be for this server, its headers included."""
        return int(self._client.max_payload)

    @property
    def server(self) -> Mapping[str, Any]:
        """What the server says of itself: version, jetstream and more."""
        return dict(self._client._server_info)

    async def _complain(self, error: Exception) -> None:
        """What the server does not permit is not answered otherwise, and names the subject in lower case."""
        self._complaint = error
        text = str(error).removeprefix("nats: ").lower()
        if text.startswith("permissions violation"):
            for subject, future in self._waiting.values():
                if not future.done() and (f'"{subject}"'.lower() in text or self._inbox.lower() in text):
                    future.set_exception(BrokerRefused(text))

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        reason = error or self._client.last_error or self._complaint or "the connection ended"
        self.lose(str(reason).removeprefix("nats: "))

    def lose(self, reason: str) -> None:
        """From now on everything raises BrokerLost."""
        if self.lost:
            return
        self.lost = reason
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(BrokerLost(reason))
                future.exception()  # perhaps nobody asks any more
        self._on_lost(reason)

    async def _look(self) -> None:
        """Notice a connection on which nothing comes back.

        Not by nats-py's own pings: where they miss an answer, its close may wait for the dead socket, and a
        late answer ends its reading.
        """
        missed = 0
        while missed < MISSED:
            try:
                if not missed:
                    await asyncio.sleep(WATCH_SECONDS)
                await self.echo(WATCH_SECONDS)
                missed = 0
            except BrokerBusy:
                missed += 1
            except BrokerLost:
                return
        self.lose(f"no answer for {MISSED * WATCH_SECONDS:g} s")

    async def echo(self, timeout: float = REPLY_SECONDS) -> None:
        """Return when the server has read everything that was sent, and we everything that it sent before."""
        number = str(next(self._numbers))
        await self._receive([number], [(f"{self._inbox}.{number}", b"", None)], timeout)

    async def ask(self, requests: Sequence[Request], timeout: float = REPLY_SECONDS) -> list[Msg]:
        """Send all of them and return the answers. Raises BrokerLost, BrokerBusy when one is missing, BrokerRefused."""
        return await self._receive([str(next(self._numbers)) for _ in requests], requests, timeout)

    async def _receive(self, numbers: Sequence[str], requests: Sequence[Request], timeout: float) -> list[Msg]:
        loop = asyncio.get_running_loop()
        futures = []
        try:
            for number, (subject, body, headers) in zip(numbers, requests, strict=True):
                futures.append(loop.create_future())
                self._waiting[number] = subject, futures[-1]
                await self.tell(subject, body, headers, f"{self._inbox}.{number}")
            async with asyncio.timeout(timeout):
                return list(await asyncio.gather(*futures))
        except TimeoutError as error:
            raise BrokerBusy(f"no answer within {timeout:g} s") from error
        finally:
            for number in numbers:
                self._waiting.pop(number, None)

    async def _answered(self, message: Msg) -> None:
        _, future = self._waiting.get(message.subject.rpartition(".")[2], ("", None))
        if future and not future.done():
            future.set_result(message)

    async def tell(
        self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send without waiting for an answer. Raises BrokerLost."""
        if self.lost:
            raise BrokerLost(self.lost)
        with broker_errors():
            await self._client.publish(subject, body, reply, dict(headers) if headers else None)

    async def hear(self, subject: str, callback: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Call back with what comes for `subject`, however much that is. Raises BrokerLost."""
        with broker_errors():
            return await self._client.subscribe(subject, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0)

    async def stop_hearing(self, subscription: Subscription) -> None:
        """Return when all that was on its way for it was called back with, or the server does not answer."""
        draining = asyncio.ensure_future(subscription.drain())  # type: ignore[no-untyped-call]
        draining.add_done_callback(lambda task: task.cancelled() or task.exception())  # perhaps nobody else asks
        # not cancelled: nats-py stops reading when the answer comes to somebody who was cancelled
        await asyncio.wait([draining], timeout=CLOSE_SECONDS)

    def new_inbox(self) -> str:
        """A subject that nobody else uses."""
        return self._client.new_inbox()

    async def close(self) -> None:
        """Send what waits to be sent and close. Safe twice."""
        self.lose("the transport was closed")
        if self._watch:
            self._watch.cancel()
        if self._closing is None and self._client._reading_task:  # after a failed handshake its close never ends
            self._closing = asyncio.ensure_future(self._client.close())
        if self._closing:
            with suppress(Exception):
                await asyncio.wait_for(asyncio.shield(self._closing), CLOSE_SECONDS)
        if self._client._transport:  # where its close has failed or waits for a dead socket
            self._client._transport.close()  # type: ignore[no-untyped-call]
