"""RabbitMQ through aio-pika; AMQP only, no retrying, decoding or handling.

URL: amqp://user:password@host:port/vhost, or amqps:// for TLS, always verified. After "?":
    heartbeat (seconds, default 10), cafile, certfile, keyfile.
Options: by exchange, queue arguments such as {x-queue-type: classic, x-max-length: 100000}.
Delivery: a durable fanout exchange, a durable quorum queue "exchange.id" for each id; persistent
    messages, confirmed. Separate connections publish and consume, since RabbitMQ blocks a
    publishing one as a whole; one channel a queue, since an error closes the channel.
Order: first in, first out with one consumer and no retries.
Delay: a ladder of queues "exchange.id.retry.seconds" whose messages expire into the queue; a delay
    is rounded up to the next step and is an hour at most.
Dead letters: "exchange.id.dead", where a message that came back more than 20 times ends too.
What it cannot do: tell a drained delivery from one whose process died (returned counts both).
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aio_pika
import msgspec
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq import exceptions as amqp
from aiormq import spec

from ..errors import BrokerLost, BrokerRefused, ConfigurationError, Unroutable
from ..message import Message, new_id
from ..transport import DEAD, Delivery, Features, Options
from . import aiormq_fast
from .amqp_message import returns, to_message, to_properties

LADDER = (1, 2, 5, 10, 30, 60, 300, 900, 3600)
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 3.0
URL_KEYS = ("heartbeat", "cafile", "certfile", "keyfile")
RETURN_LIMIT = 20
REFUSALS = (
    amqp.AuthenticationError,
    amqp.ProbableAuthenticationError,
    amqp.ConnectionNotAllowed,
    amqp.ChannelAccessRefused,
    amqp.ChannelPreconditionFailed,
)


class RabbitMQTransport:
    """Two connections to one RabbitMQ, good until either is lost."""

    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    def __init__(self, url: str, options: Options) -> None:
        parts = urlsplit(url)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        for key in query.keys() - set(URL_KEYS):
            raise ConfigurationError(f"{key!r} is not allowed in a RabbitMQ URL; there are: {', '.join(URL_KEYS)}")
        for exchange, arguments in options.items():
            for key in arguments:
                if not key.startswith("x-"):
                    raise ConfigurationError(
                        f"{key!r} is not a queue argument of RabbitMQ: they start with 'x-'",
                        "exchanges",
                        exchange,
                        "options",
                    )
        self._url = url.partition("?")[0]
        self._heartbeat = query.pop("heartbeat", "10")
        self._tls = query
        self._options = options
        self._exchanges: set[str] = set()
        self._retry_queues: set[str] = set()
        self._looked_for_retries: set[str] = set()
        self._ids = map(f"{new_id()}-{{}}".format, itertools.count())
        self._connections: list[AbstractConnection] = []

    async def open(self) -> None:
        with broker_errors():
            self._publisher = await self._connect("publish")
            self._consumer = await self._connect("consume")
            channel = await self._publisher.channel(on_return_raises=True)
            self._channel = await channel.get_underlay_channel()

    async def _connect(self, purpose: str) -> AbstractConnection:
        context = None
        if self._url.startswith("amqps:"):
            context = ssl.create_default_context(cafile=self._tls.get("cafile"))
            if "certfile" in self._tls:
                context.load_cert_chain(self._tls["certfile"], self._tls.get("keyfile"))
        connection = await aio_pika.connect(
            self._url,
            timeout=CONNECT_SECONDS,
            ssl_context=context,
            heartbeat=self._heartbeat,
            client_properties={"connection_name": f"mqasync {purpose}"},
        )
        self._connections.append(connection)
        return connection

    async def declare(self, exchange: str, id: str, bound: bool = True) -> None:
        queue = f"{exchange}.{id}"
        if not bound:
            return await self._declare_queue(queue, exchange, {})
        arguments = self._dead_lettering(exchange, queue + DEAD) | dict(self._options.get(exchange, {}))
        if "x-delivery-limit" not in arguments and self._is_quorum(exchange):
            arguments["x-delivery-limit"] = RETURN_LIMIT
        await self._declare_queue(queue, exchange, arguments)
        async with self._topology() as channel:
            await channel.declare_exchange(exchange, "fanout", durable=True)
            await (await channel.get_queue(queue, ensure=False)).bind(exchange)
        self._exchanges.add(exchange)

    def _is_quorum(self, exchange: str) -> bool:
        return self._queue_type(exchange) == "quorum"

    def _queue_type(self, exchange: str) -> str:
        return str(self._options.get(exchange, {}).get("x-queue-type", "quorum"))

    def _dead_lettering(self, exchange: str, target: str) -> dict[str, Any]:
        """Arguments that make the broker itself pass messages on to the queue `target`, without losing one."""
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
        if self._is_quorum(exchange):
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        return arguments

    async def _declare_queue(self, queue: str, exchange: str, arguments: Mapping[str, Any]) -> None:
        arguments = {"x-queue-type": self._queue_type(exchange), **arguments}
        async with self._topology() as channel:
            await channel.declare_queue(queue, durable=True, arguments=arguments)

    @asynccontextmanager
    async def _topology(self) -> AsyncIterator[AbstractChannel]:
        """A channel for one declaration: a refusal closes it and nothing else."""
        with broker_errors():
            async with self._publisher.channel(publisher_confirms=False) as channel:
                yield channel

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        if exchange not in self._exchanges:
            async with self._topology() as channel:
                await channel.declare_exchange(exchange, "fanout", durable=True)
            self._exchanges.add(exchange)
        await self._publish(exchange, "", messages)

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        queue = f"{exchange}.{id}"
        if delay > 0:
            queue = await self._retry_queue(exchange, queue, delay)
        try:
            await self._publish("", queue, messages)
        except Unroutable as error:
            raise BrokerLost(f"the queue {queue} is gone") from error

    async def _retry_queue(self, exchange: str, queue: str, delay: float) -> str:
        """The queue in which messages wait for the first step of the ladder that is long enough."""
        step = next((step for step in LADDER if step >= delay), LADDER[-1])
        name = f"{queue}.retry.{step}"
        if name not in self._retry_queues:
            arguments = self._dead_lettering(exchange, queue) | {"x-message-ttl": step * 1000}
            await self._declare_queue(name, exchange, arguments)
            self._retry_queues.add(name)
        return name

    async def _publish(self, exchange: str, routing_key: str, messages: Sequence[Message]) -> None:
        prepared = [(to_properties(message, next(self._ids)), message.body) for message in messages]
        with broker_errors():
            await aiormq_fast.publish(self._channel, exchange, routing_key, prepared)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> RabbitMQSubscription:
        with broker_errors():
            channel = await (await self._consumer.channel(publisher_confirms=False)).get_underlay_channel()
            await channel.basic_qos(prefetch_count=prefetch)
            subscription = RabbitMQSubscription(self, channel, exchange, id)
            subscription.consumer_tag = await aiormq_fast.consume(channel, f"{exchange}.{id}", subscription.arrived)
            return subscription

    async def depth(self, exchange: str, id: str) -> int:
        queue = f"{exchange}.{id}"
        if queue not in self._looked_for_retries:  # another process may have left some
            steps = [f"{queue}.retry.{step}" for step in LADDER]
            self._retry_queues |= {name for name in steps if await self._waiting(name) is not None}
            self._looked_for_retries.add(queue)
        names = [queue, *(name for name in self._retry_queues if name.startswith(f"{queue}.retry."))]
        return sum([await self._waiting(name) or 0 for name in names])

    async def _waiting(self, queue: str) -> int | None:
        """Messages waiting in `queue`, None if there is no such queue."""
        with broker_errors():
            try:
                async with self._publisher.channel(publisher_confirms=False) as channel:
                    declared = await channel.declare_queue(queue, passive=True)
                    return declared.declaration_result.message_count or 0
            except amqp.ChannelNotFoundEntity:
                return None

    async def close(self) -> None:
        for connection in self._connections:
            with suppress(Exception):  # in an outage there is nobody to say goodbye to
                async with asyncio.timeout(CLOSE_SECONDS):
                    await connection.close()


class RabbitMQSubscription:
    """One channel that consumes one queue; deliveries wait in a buffer until the core asks."""

    lease: float | None = None
    consumer_tag = ""

    def __init__(self, transport: RabbitMQTransport, channel: Any, exchange: str, id: str) -> None:
        self._transport, self._channel = transport, channel
        self._exchange, self._id = exchange, id
        self._buffer: deque[Delivery] = deque()
        self._unsettled: dict[int, None] = {}  # delivery tags, oldest first
        self._something = asyncio.Event()
        self._closed = False
        self._lost = ""
        channel.closing.add_done_callback(lambda closing: self._lose("the channel is closed"))
        channel.on_consumer_cancel_callbacks.add(lambda frame: self._lose("the broker cancelled the consumer"))

    def _lose(self, reason: str) -> None:
        self._lost = reason
        self._something.set()

    def arrived(self, tag: int, properties: spec.Basic.Properties, body: bytes) -> None:
        """Keep one delivery until `receive` takes it."""
        self._unsettled[tag] = None
        self._buffer.append(Delivery(to_message(self._exchange, properties, body), self, tag, returns(properties)))
        self._something.set()

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        if not self._buffer and not self._closed and not self._lost:
            self._something.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._something.wait()
        if self._lost:
            raise BrokerLost(self._lost)
        if self._closed:
            return []
        return [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        tags = sorted(delivery.tag for delivery in deliveries)
        for tag in tags:
            self._unsettled.pop(tag, None)
        oldest = next(iter(self._unsettled), tags[-1] + 1)
        contiguous = [tag for tag in tags if tag < oldest]  # nothing unsettled before them
        with broker_errors():
            if contiguous:
                await self._channel.basic_ack(contiguous[-1], multiple=True, wait=False)
            for tag in tags[len(contiguous) :]:
                await self._channel.basic_ack(tag, wait=False)

    async def retry(self, delivery: Delivery, delay: float) -> None:
        again = msgspec.structs.replace(delivery.message, attempt=delivery.message.attempt + 1)
        await self._transport.send(self._exchange, self._id, [again], delay)
        await self.ack([delivery])

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        with broker_errors():
            for delivery in deliveries:
                self._unsettled.pop(delivery.tag, None)
                await self._channel.basic_nack(delivery.tag, requeue=True, wait=False)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        pass  # RabbitMQ keeps a delivery for us as long as the channel lives

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._something.set()
        with suppress(BrokerLost, BrokerRefused, TimeoutError), broker_errors():
            await self._channel.basic_cancel(self.consumer_tag, timeout=CLOSE_SECONDS)
            await self.release(list(self._buffer))


@contextmanager
def broker_errors() -> Iterator[None]:
    """Say what aio-pika and aiormq raise in the words of mqasync.errors."""
    try:
        yield
    except amqp.PublishError as error:
        raise Unroutable(f"no queue is bound to exchange {getattr(error.frame, 'exchange', '')!r}") from error
    except REFUSALS as error:
        raise BrokerRefused(str(error)) from error
    except (amqp.AMQPError, amqp.ChannelInvalidStateError, OSError, RuntimeError, TimeoutError) as error:
        raise BrokerLost(str(error) or type(error).__name__) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise  # somebody asked for it
        raise BrokerLost("the connection ended") from error  # aiormq cancels who waits for a dead connection
