"""One connection to NATS, good until it is lost: requests, answers and what is heard; no JetStream words here."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..errors import BrokerBusy, BrokerError, BrokerLost, BrokerRefused
from .nats_errors import REPLY_SECONDS, broker_errors, why_not_connected

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
        self._client = Client()
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._complaint: Exception | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None

    async def open(self, url: str, tls: ssl.SSLContext | None, credentials: Sequence[str]) -> None:
        """Connect; `credentials` are user and password, a token, or none. Raises BrokerLost or BrokerRefused."""
        names = ("user", "password") if len(credentials) == 2 else ("token",)
        secrets = {name: self._secret(value, tls) for name, value in zip(names, credentials, strict=False)}
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                await self._client.connect(
                    url,
                    name="mqasync",
                    tls=tls,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,  # 0 would be for ever
                    reconnect_time_wait=0,
                    connect_timeout=int(REPLY_SECONDS),
                    pending_size=0,  # so that publishing never waits: nats-py swallows the cancellation of who does
                    error_cb=self._complain,
                    disconnected_cb=self._ended,
                    closed_cb=self._ended,
                    **secrets,  # type: ignore[arg-type]
                )
            self._check(tls)
        except (BrokerError, asyncio.CancelledError):
            raise
        except Exception as error:  # nats-py lets through whatever a name lookup or a handshake raises
            raise why_not_connected(self._complaint or error) from error
        self._inbox = self._client.new_inbox()
        await self.hear(f"{self._inbox}.*", self._answered)
        self._watch = asyncio.create_task(self._look())

    def _secret(self, value: str, tls: ssl.SSLContext | None) -> Callable[[], str]:
        """What nats-py calls just before it sends the secret: after the TLS handshake, if there was one."""

        def secret() -> str:
            self._check(tls)
            return value

        return secret

    def _check(self, tls: ssl.SSLContext | None) -> None:
        """nats-py goes on without TLS where the server, or somebody between, does not ask for it. We do not."""
        if tls and not self._client._server_info.get("tls_required"):
            raise BrokerRefused("what listens there does not speak TLS: use nats://, or set up TLS in the server")

    @property
    def max_payload(self) -> int:
        """How large a message may be for this server, its headers included."""
        return int(self._client.max_payload)

    @property
    def version(self) -> str:
        """The server's."""
        return str(self._client._server_info.get("version", ""))

    async def _complain(self, error: Exception) -> None:
        self._complaint = error

    async def _ended(self) -> None:
        self.lose(str(self._client.last_error or self._complaint or "the connection ended"))

    def lose(self, reason: str) -> None:
        """From now on everything raises BrokerLost."""
        if self.lost:
            return
        self.lost = reason
        for future in self._waiting.values():
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
            await asyncio.sleep(WATCH_SECONDS)
            try:
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
        futures = [loop.create_future() for _ in numbers]
        self._waiting.update(zip(numbers, futures, strict=True))
        try:
            for number, (subject, body, headers) in zip(numbers, requests, strict=True):
                await self.tell(subject, body, headers, f"{self._inbox}.{number}")
            async with asyncio.timeout(timeout):
                return list(await asyncio.gather(*futures))
        except TimeoutError as error:
            complaint = str(self._complaint or "")
            if "permissions violation" in complaint and requests[0][0].lower() in complaint:
                raise BrokerRefused(complaint.removeprefix("nats: ")) from error
            raise BrokerBusy(f"no answer within {timeout:g} s") from error
        finally:
            for number in numbers:
                self._waiting.pop(number, None)

    async def _answered(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
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
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._client.close())
        with suppress(Exception):
            await asyncio.wait_for(asyncio.shield(self._closing), CLOSE_SECONDS)
