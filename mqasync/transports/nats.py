"""NATS JetStream through nats-py; the contract only: no retrying, decoding or handling.

URL: nats://user:password@host:port, or natss:// for TLS, always verified. After "?":
    token (instead of user and password), lease (seconds until an unsettled delivery comes back by itself, default 30;
    a queue has one lease, which the last URL that names it sets), sync=always (says that the server is set up so, and
    ends the warning), cafile, certfile, keyfile. A cluster goes by a host name with several addresses.
Options: by exchange, settings of its stream: num_replicas, max_age (seconds), max_bytes, max_msgs, compression
    (none or s2). A stream that is full takes no more; max_age drops what is older, acknowledged or not.
Delivery: a stream for each exchange, mqasync-EXCHANGE, and a durable pull consumer of it for each id; dots in their
    names are written "~". A message is kept in a file until every queue has acknowledged it. Anybody can publish to
    the subject mqasync.EXCHANGE. A delivery is leased: who holds it longer without extending it loses it, and settling
    it then has no effect. What a killed process held comes back one lease later and is counted. For a queue that
    expires, time runs while nobody asks for messages and all leases have ended (a server from before August 2025
    does not look at the leases).
Order: first in, first out with one consumer and no retries; what is released comes first again.
Delay: exact, by the wall clocks of sender and receiver: a consumer puts back what comes too early. A retry
    is a new message, for its own queue alone, since JetStream counts deliveries and nothing else.
Dead letters: a consumer "id~dead" of the same stream.
What it cannot do: carry more than the server's max_payload, headers included (1 MiB, if it is not set; 128 KiB are
    kept free for headers); tell a released delivery from one whose process died (returned counts both); tell
    delayed messages from the others, or how many consume a queue; tell whether it syncs to the disk (see `warning`);
    serve more than 512 waiting consumers of one id. Needs nats-server 2.10.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from ..errors import BrokerBusy, BrokerError, BrokerLost, BrokerRefused, ConfigurationError, Unroutable
from ..message import Message
from ..transport import Features, Options, QueueStats
from .common import tls
from .nats_connection import Connection
from .nats_errors import NO_RESPONDERS, answer
from .nats_message import RESERVED_BYTES, size, to_nats
from .nats_subscription import NATSSubscription
from .nats_topology import API, NANOSECONDS, Topology, check_options, stream_name, subject, token

OLDEST = (2, 10)  # the first with several filters for a consumer
PORT = 4222
URL_KEYS = ("token", "lease", "sync", *tls.FILES)
NOT_SYNCED = (
    "JetStream syncs to the disk every two minutes, unless it is told otherwise, and does not tell: a power cut loses"
    " what it has confirmed since. Set `sync_interval: always` in the server's jetstream {} block, then add"
    " sync=always to the URL"
)


class NATSTransport:
    """One connection to one NATS server, good until it is lost."""

    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=1024 * 1024 - RESERVED_BYTES)
    blocked = ""
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        parts = urlsplit(url)
        self._settings = dict(parse_qsl(parts.query, keep_blank_values=True))
        for key in self._settings:
            if key not in URL_KEYS:
                raise ConfigurationError(f"{key!r} cannot be set in a NATS URL; there are: {', '.join(URL_KEYS)}")
        tls.check(self._settings, parts.scheme == "natss", "natss://", "a nats:// URL")
        if self._settings.get("sync", "always") != "always":
            raise ConfigurationError(f"sync is {self._settings['sync']!r}; it takes always, or is left out")
        if not parts.hostname or parts.path not in ("", "/"):
            raise ConfigurationError("a NATS URL names a host and no path: nats://user:password@host:port")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._secure = parts.scheme == "natss"
        self._address = f"{'tls' if self._secure else 'nats'}://{host}:{parts.port or PORT}"
        self._credentials = _credentials(parts.username, parts.password, self._settings.get("token"))
        self._lease = _lease(self._settings["lease"]) if "lease" in self._settings else None
        check_options(options)
        self._options = options
        self._subscriptions: list[NATSSubscription] = []

    async def open(self) -> None:
        context = tls.context(self._settings) if self._secure else None
        self._connection = Connection(self._lose)
        try:
            await self._connection.open(self._address, context, self._credentials)
        except BrokerLost as error:
            if context and self._connection.server.get("tls_verify") and "certfile" not in self._settings:
                raise BrokerRefused("it wants to see our certificate: certfile= and keyfile= name it") from error
            raise
        version = str(self._connection.server.get("version", ""))
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
            raise BrokerRefused(f"nats-server {version} is too old: 2.10 is the first that will do")
        self._topology = Topology(self._connection, self._options, self._lease)
        try:
            await self._topology.ask("INFO")
        except BrokerBusy as error:
            if self._connection.server.get("jetstream"):  # it is starting, or its cluster is
                raise
            raise BrokerRefused(str(error)) from error
        largest = self._connection.max_payload - RESERVED_BYTES
        self.features = msgspec.structs.replace(self.features, max_bytes=largest)
        self.warning = "" if "sync" in self._settings else NOT_SYNCED

    def _lose(self, reason: str) -> None:
        for subscription in self._subscriptions:
            subscription.lose(reason)

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        await self._topology.declare(exchange, id, bound, expires)

    async def delete(self, exchange: str, id: str) -> None:
        await self._topology.delete(exchange, id)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        await self._topology.check_bound(exchange)
        await self._publish(subject(exchange), messages)

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        await self._topology.info(exchange, id)  # JetStream would confirm what is for nobody, and drop it
        await self._send(exchange, id, messages, delay)

    async def _send(self, exchange: str, id: str, messages: Sequence[Message], delay: float) -> None:
        try:
            await self._publish(subject(exchange, id), messages, time.time() + delay if delay > 0 else None)
        except Unroutable as error:
            raise BrokerLost(f"the queue of {id!r} at exchange {exchange!r} is gone") from error

    async def _publish(self, to: str, messages: Sequence[Message], due: float | None = None) -> None:
        """Publish and wait until each is confirmed."""
        requests = [(to, *to_nats(message, due)) for message in messages]
        for _, body, headers in requests:
            length = len(body) + size(headers)
            if length > self._connection.max_payload:  # the server would close the connection
                limit = f"max_payload of the NATS server is {self._connection.max_payload:,}"
                raise BrokerRefused(f"a message of {length:,} bytes with its headers for {to}; {limit}")
        for reply in await self._connection.ask(requests):
            if (reply.headers or {}).get("Status") == NO_RESPONDERS:
                raise Unroutable(f"nothing takes what is published to {to}")
            answer(reply.data)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> NATSSubscription:
        async def send_again(message: Message, delay: float) -> None:
            await self._send(exchange, id, [message], delay)

        info = await self._topology.info(exchange, id)
        lease = info["config"]["ack_wait"] / NANOSECONDS
        subscription = NATSSubscription(self._connection, exchange, prefetch, lease, send_again)
        await subscription.open(f"{API}.CONSUMER.MSG.NEXT.{stream_name(exchange)}.{token(id)}")
        self._subscriptions.append(subscription)
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count what is not settled; what is put back until it is due counts as held by somebody."""
        found = await self._topology.find(exchange, id)
        return QueueStats(int(found["num_pending"]) + int(found["num_ack_pending"])) if found else None

    async def queues(self) -> list[tuple[str, str]] | None:
        return await self._topology.queues()

    async def close(self) -> None:
        if not hasattr(self, "_connection"):
            return
        for subscription in self._subscriptions:
            await subscription.let_go()
        if not self._connection.lost:
            with suppress(BrokerError):
                await self._connection.echo(1.0)  # the server has read it all
        await self._connection.close()


def _credentials(user: str | None, password: str | None, token: str | None) -> list[str]:
    """User and password, a token, or nothing."""
    if (user is None) != (password is None):  # NATS's own tools take a lone user for a token, and people for no secret
        raise ConfigurationError("a NATS URL names user and password both; a token is given as ?token=...")
    if user is None or password is None:
        return [] if token is None else [token]
    if token is not None:
        raise ConfigurationError("a NATS URL names user and password, or a token, not both")
    return [unquote(user), unquote(password)]


def _lease(text: str) -> float:
    """The seconds that the URL names."""
    try:
        lease = float(text)
    except ValueError:
        lease = math.nan
    if not 0 < lease < math.inf:
        raise ConfigurationError(f"lease={text!r} is not a number of seconds above 0")
    return lease
