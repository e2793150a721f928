"""RabbitMQ through aio-pika; AMQP only, no retrying, decoding or handling.

URL: amqp://user:password@host:port/vhost, or amqps:// for TLS, always verified. After "?":
    heartbeat (seconds, default 10), cafile, certfile, keyfile,
    management (http://host:15672 or https://, of the management plugin: AMQP itself cannot list queues).
Options: by exchange, queue arguments such as {x-queue-type: classic, x-max-length: 100000}.
Delivery: a durable fanout exchange, a durable quorum queue for each id; persistent messages, mandatory
    and confirmed. Separate connections publish and consume, since RabbitMQ blocks a publishing one
    as a whole; one channel a queue, since an error closes the channel.
Order: first in, first out with one consumer, no retries and nothing put back.
Delay: by a ladder of queues whose messages expire into the queue (amqp_topology.py): rounded up to the
    next of 1, 2, 5, 10, 30, 60, 300, 900 and 3600 seconds, which is the most.
Dead letters: "exchange.id.dead"; RabbitMQ puts there too what came back more than 20 times. They may come
    back without end; but in a queue that mqasync made before it saw to that, RabbitMQ 4 drops what came
    back more than 20 times: empty and delete that queue once, and it is made anew.
What it cannot do: tell a drained delivery from one whose process died (returned counts both).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from urllib.parse import parse_qsl, urlsplit

import aio_pika
import aiormq
from aio_pika.abc import AbstractConnection
from yarl import URL

from ..errors import BrokerLost, ConfigurationError, Unroutable
from ..message import Message
from ..transport import Features, Options, QueueStats
from . import amqp_poison, amqp_tls
from .amqp_errors import REPLY_SECONDS, broker_errors, replies
from .amqp_management import Management
from .amqp_publishing import Publishing
from .amqp_topology import Topology
from .common import tls
from .rabbitmq_subscription import RabbitMQSubscription

CLOSE_SECONDS = 3.0
URL_KEYS = ("heartbeat", *tls.FILES, "management")
MISSED_HEARTBEATS = 2  # as RabbitMQ itself counts; aiormq would wait for three


class RabbitMQTransport:
    """Two connections to one RabbitMQ, good until either is lost."""

    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)
    blocked = ""
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        self._url, _, query = url.partition("?")
        self._settings = dict(parse_qsl(query, keep_blank_values=True))
        for key in self._settings:
            if key not in URL_KEYS:
                raise ConfigurationError(f"{key!r} cannot be set in a RabbitMQ URL; there are: {', '.join(URL_KEYS)}")
        heartbeat = self._settings.get("heartbeat", "10")
        if not heartbeat.isdecimal():
            raise ConfigurationError(f"heartbeat is {heartbeat!r}; it takes whole seconds")
        tls.check(self._settings, url.startswith("amqps:"), "amqps://", "an amqp:// URL")
        if not urlsplit(url).hostname:
            raise ConfigurationError("a RabbitMQ URL names a host: amqp://user:password@host:port/vhost")
        address = self._settings.get("management")
        self._management = None if address is None else Management(address, self._url, self._settings)
        for exchange, arguments in options.items():
            for key in arguments:
                if not key.startswith("x-"):
                    problem = f"{key!r} is not a queue argument of RabbitMQ: they start with 'x-'"
                    raise ConfigurationError(problem, "exchanges", exchange, "options", key)
        self._options = options
        self._connections: list[AbstractConnection] = []
        self._subscriptions: list[RabbitMQSubscription] = []

    async def open(self) -> None:
        amqp_poison.tolerate()
        aiormq.Connection.HEARTBEAT_GRACE_MULTIPLIER = MISSED_HEARTBEATS
        with broker_errors(), amqp_tls.refusals():
            publisher = await self._connect("publish")
            self._consumer = await self._connect("consume")
            self._publishing = Publishing(publisher, partial(setattr, self, "blocked"))
            await self._publishing.open()
        publisher.close_callbacks.add(self._lose)
        self._topology = Topology(publisher, self._options)

    async def _connect(self, purpose: str) -> AbstractConnection:
        connection = aio_pika.Connection(
            URL(self._url).update_query(heartbeat=self._settings.get("heartbeat", "10")),
            ssl_context=tls.context(self._settings) if self._url.startswith("amqps:") else None,
            client_properties={"connection_name": f"mqasync {purpose}"},
        )
        self._connections.append(connection)  # one that never connects has to be closed as well
        connecting = asyncio.ensure_future(connection.connect())
        connecting.add_done_callback(lambda task: task.cancelled() or task.exception())  # perhaps nobody else asks
        try:
            # not awaited itself: cancelled while it fails, it would raise the failure and hide the cancellation
            await asyncio.wait([connecting], timeout=REPLY_SECONDS)
            if not connecting.done():
                raise TimeoutError
        finally:
            connecting.cancel()
        connecting.result()
        return connection

    def _lose(self, connection: object, error: BaseException | None) -> None:
        """Without the connection that publishes, retries are impossible: let every subscription start anew."""
        for subscription in self._subscriptions:
            subscription.lose("the connection that publishes is lost")

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        await self._topology.queue(exchange, id, bound, expires)

    async def delete(self, exchange: str, id: str) -> None:
        await self._topology.delete(f"{exchange}.{id}")

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        await self._topology.exchange(exchange)
        await self._publishing.publish(exchange, "", messages)

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        queue = f"{exchange}.{id}"
        if delay > 0:
            queue = await self._topology.retry_queue(queue, delay)
        try:
            await self._publishing.publish("", queue, messages)
        except Unroutable as error:
            self._topology.forget(queue)
            raise BrokerLost(f"the queue {queue} is gone") from error

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> RabbitMQSubscription:
        async def send_again(message: Message, delay: float) -> None:
            await self.send(exchange, id, [message], delay)

        async with replies():
            channel = await self._consumer.channel(publisher_confirms=False)
            subscription = RabbitMQSubscription(await channel.get_underlay_channel(), exchange, send_again)
            self._subscriptions.append(subscription)
            await subscription.open(f"{exchange}.{id}", prefetch)
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        return await self._topology.stats(f"{exchange}.{id}")

    async def queues(self) -> list[tuple[str, str]] | None:
        return await self._management.queues() if self._management else None

    async def close(self) -> None:
        # channels first: a channel's close is answered after the acknowledgements before it were taken,
        # while aiormq drops what it has not written yet when a connection is closed
        channels = [subscription.channel for subscription in self._subscriptions]
        for group in (channels, self._connections):
            with suppress(TimeoutError):  # in an outage there is nobody to say goodbye to
                async with asyncio.timeout(CLOSE_SECONDS):
                    await asyncio.gather(*(one.close() for one in group), return_exceptions=True)
