"""RabbitMQ through aiormq.

URL: amqp://user:password@host:port/vhost, or amqps:// for TLS, always verified. After "?":
    heartbeat (seconds, default 10), cafile, certfile, keyfile,
    management (http://host:15672 or https://, of the management plugin: AMQP itself cannot list queues; the
    user and password are those of the URL, and the user needs the tag "management").
Options: by exchange, `type` (fanout, topic, direct, headers or a plugin's, such as x-random), with which a message's
    key is its routing key, and queue arguments such as {x-queue-type: classic, x-max-length: 100000}. Existing
    exchanges and queues are used as they are: `declare`, `queue` and `bind`, see docs/existing.md.
Delivery: a durable fanout exchange, and a durable quorum queue for each id; messages are persistent, mandatory
    and confirmed. Publishing and consuming have separate connections, because RabbitMQ blocks a publishing
    connection as a whole; each subscription has its own channel, because an error closes the channel.
Order: first in, first out with one consumer, no retries and no requeued messages.
Delay: by a ladder of queues whose messages expire into the queue, "exchange.id.retry.seconds": rounded up
    to the next of 1, 2, 5, 10, 30, 60, 300, 900 and 3600 seconds; longer delays take several of them.
Dead letters: "exchange.id.dead"; RabbitMQ itself also moves messages there that were redelivered more than 20
    times. Dead letters may be redelivered without limit.
What it cannot do: distinguish a message that a drain requeued from one whose process died (returned counts both).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from base64 import b64encode
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import aiormq
from aiormq import exceptions as amqp
from aiormq import spec
from aiormq.abc import DeliveredMessage

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, ConfigurationError, NoSuchQueue
from ..message import Message, new_id
from ..transport import DEAD, Delivery, Errors, Features, Options, QueueStats
from . import rabbitmq_patches as patches
from .common.buffer import Buffer
from .common.envelope import from_headers, to_headers
from .common.names import named
from .common.url import Key, existing, missing, parse

FORM = "amqp://user:password@host:port/vhost"
KEYS = {"heartbeat": Key(10, least=0, most=65_534), "management": Key("")}
MANAGEMENT = re.compile(r"(https?://(\[[0-9a-f:.]+\]|[\w.-]+)(:\d{1,5})?(/[\w./-]*)?)?", re.IGNORECASE)
CHANNELS = 500  # for concurrent calls on one connection
LAST_CHANNEL = 2047  # of a connection, as RabbitMQ is set up
REPLY_SECONDS = 10.0  # a quorum queue without a leader may never answer a consumer
LADDER = (1, 2, 5, 10, 30, 60, 300, 900, 3600)  # seconds that delayed messages wait
USUAL_PRIORITY = 4  # higher ones come first: in a quorum queue of RabbitMQ 4, or one with x-max-priority
TYPES = ("fanout", "topic", "direct", "headers")
EVERYTHING = {"topic": ["#"]}  # binding keys by type of an exchange, where none are given
SEARCH_SECONDS = 60.0  # how long it may take until the ladder of another process is counted
TEMPORARY_SECONDS = 60  # until a temporary queue without a consumer is deleted
RETURNS = 20  # after which RabbitMQ itself dead-letters a message; its own default from version 4 on
# Dead letters may be looked at any number of times, and each look ends with a requeue. Not -1, "no limit"
# since RabbitMQ 4: 3.10 drops a message at its first requeue then, and some of 4 write -1 into the queue's log
# again and again (github.com/rabbitmq/rabbitmq-server/issues/14202). Set on 3 too: a queue lives on in 4.
ANY_RETURNS = 1_000_000_000
# RabbitMQ acts on these or writes them: they are neither sent nor read as a message's own headers.
RESERVED = re.compile(r"B?CC$|x-(death|delivery-count|first-death-|last-death-|opt-)")
ERRORS: Errors = (
    (NoSuchQueue, [amqp.PublishError, amqp.ChannelNotFoundEntity]),
    (NoSuchQueue, [amqp.ChannelInvalidStateError], "the channel is closed"),
    (BrokerBusy, [amqp.DeliveryError], "the broker did not accept the message: a queue is full or not ready"),
    (BrokerBusy, [TimeoutError], f"no answer within {REPLY_SECONDS:g} s"),
    (BrokerRefused, ["got <Connection.Close"], "there is no such virtual host, or no permission for it"),
    (BrokerRefused, [amqp.AuthenticationError, amqp.ProbableAuthenticationError, amqp.ConnectionNotAllowed]),
    (BrokerRefused, [amqp.ChannelAccessRefused, amqp.ChannelPreconditionFailed]),
    (BrokerLost, [RuntimeError, StopAsyncIteration], "the connection is closed"),
)


class RabbitMQTransport:
    """Two connections to one RabbitMQ: one publishes, the other does the rest."""

    features = Features(
        counts_returns=True,
        priorities=True,
        max_bytes=128 * 1024 * 1024,
        max_delay=LADDER[-1],
        cancellable_receive=True,
        temporary=True,
    )
    errors = ERRORS
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options."""
        self._address = parse(url, form=FORM, port=5672, keys=KEYS, secure="amqps")
        self._url = f"{url.partition('?')[0]}?heartbeat={self._address.settings['heartbeat']}"
        self._management = self._address.settings["management"].rstrip("/")
        if not MANAGEMENT.fullmatch(self._management):
            raise ConfigurationError("management takes http://host:port, or https://, without user and query")
        for exchange, arguments in options.items():
            for key in arguments.keys() - {"type", "declare", "queues"}:
                if not key.startswith("x-"):
                    problem = f"{key!r} is not a queue argument of RabbitMQ: they start with 'x-'"
                    raise ConfigurationError(problem, "exchanges", exchange, "options", key)
            kind = arguments.get("type", "fanout")
            if kind not in TYPES and not str(kind).startswith("x-"):
                problem = f"type is {kind!r}; it takes {', '.join(TYPES)} or one of a plugin, which starts with 'x-'"
                raise ConfigurationError(problem, "exchanges", exchange, "options", "type")
        self._options = options
        self._connections: list[aiormq.Connection] = []
        self._idle: dict[Any, list[Any]] = defaultdict(list)  # channels of a connection, for the next call
        self._turns: dict[Any, asyncio.Semaphore] = defaultdict(partial(asyncio.Semaphore, CHANNELS))
        self._numbers = itertools.cycle(range(1, LAST_CHANNEL + 1))
        self._absent: dict[str, float] = {}  # queues of ladders that did not exist; when to look again

    async def open(self) -> None:
        """Connect."""
        patches.tolerate()
        context = self._address.ssl_context()
        for purpose in ("publish", "consume"):
            name: Any = {"connection_name": f"mqasync {purpose}"}
            connection = await aiormq.connect(self._url, context=context, client_properties=name)
            self._connections.append(connection)
        self._publisher, self._consumer = self._connections

    async def _open(self, connection: aiormq.Connection, **more: Any) -> Any:
        """A channel. aiormq itself may reuse the number of one that is still closing, which ends the connection."""
        number = next(number for number in self._numbers if number not in connection.channels)
        return await connection.channel(number, **more)

    async def _call(self, connection: aiormq.Connection, request: Callable[[Any], Awaitable[Any]]) -> Any:
        """The result of one request on a channel, which is kept for the next: an error closes it alone.

        And those that are idle: RabbitMQ 3.10 remembers for each channel where a quorum queue's leader was,
        and if that node has just died, it refuses whatever the channel publishes to the queue later
        (rabbit_fifo_client; tests/faults/test_cluster.py shows it).
        """
        async with self._turns[connection]:
            idle = self._idle[connection]
            channel = idle.pop() if idle and not idle[-1].is_closed else await self._open(connection)
            try:
                result = await request(channel)
            except Exception:  # not when cancelled: without an answer it would be asked twice to close
                stale = [channel, *self._idle.pop(connection, ())]
                await asyncio.gather(*(one.close() for one in stale))
                raise
            self._idle[connection].append(channel)
            return result

    async def ping(self) -> None:
        """A request without effect on both connections; one that is blocked would not answer."""
        await self._call(self._consumer, lambda channel: channel.basic_qos(prefetch_count=0))
        try:
            async with asyncio.timeout(0):
                await self._publisher.ready()
        except TimeoutError:
            raise BrokerBusy("it is low on memory or disk") from None
        await self._call(self._publisher, lambda channel: channel.basic_qos(prefetch_count=0))

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Create the queue, and the exchange if it is bound to one; or check that existing ones do exist."""
        queue, native = self._name(exchange, id), self._options.get(exchange, {})
        theirs = native.get("queues", {}).get(id, {})
        if bound and ("queue" in theirs or "declare" in native):
            return await self._see(f"queue {queue!r}", lambda channel: channel.queue_declare(queue, passive=True))
        own = {key: value for key, value in native.items() if key.startswith("x-")}
        kind = own.get("x-queue-type", "quorum")
        limit = {"x-delivery-limit": RETURNS if bound else ANY_RETURNS} if kind == "quorum" else {}
        arguments = {"x-queue-type": kind} | limit | (passing_on(queue + DEAD, kind) | own if bound else {})
        if temporary:
            arguments = {"x-queue-type": "classic", "x-expires": TEMPORARY_SECONDS * 1000}
        await self._declare(queue, arguments)
        if bound:
            await self.bound(exchange)
            for key in theirs.get("bind") or EVERYTHING.get(native.get("type", ""), [""]):
                keys: Any = {"routing_key": key} if isinstance(key, str) else {"arguments": key}
                await self._call(
                    self._consumer, partial(aiormq.Channel.queue_bind, queue=queue, exchange=exchange, **keys)
                )

    def _name(self, exchange: str, id: str) -> str:
        """The name of the queue on the broker."""
        return existing(self._options, exchange, id) or f"{exchange}.{id}"

    async def _see(self, what: str, request: Callable[[Any], Awaitable[Any]]) -> None:
        try:
            await self._call(self._consumer, request)
        except amqp.ChannelNotFoundEntity:
            raise missing(what) from None

    async def _declare(self, queue: str, arguments: dict[str, Any]) -> None:
        declare = partial(aiormq.Channel.queue_declare, queue=queue, durable=True, arguments=arguments)
        try:
            await self._call(self._consumer, declare)
        except amqp.ChannelPreconditionFailed as error:
            ours = ", ".join(f"{name}: {value}" for name, value in arguments.items())
            raise BrokerRefused(f"{error}; mqasync declares it durable, with {ours}") from None

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Publish, and wait for the confirms, without a limit: a blocked connection is waited for."""
        try:
            typed = "type" in self._options.get(exchange, {})
            for key, some in groupby(messages, key=lambda message: message.key or "" if typed else ""):
                await self._publish(exchange, key, list(some))
        except amqp.ChannelNotFoundEntity:  # its consumers have to bind their queues again
            raise BrokerLost(f"the exchange {exchange!r} was deleted") from None

    async def bound(self, exchange: str) -> bool:
        """Make sure that the exchange exists, and return True: publish itself raises Unroutable."""
        native = self._options.get(exchange, {})
        how: Any = {"passive": True} if "declare" in native else {"exchange_type": native.get("type", "fanout")}
        await self._see(f"exchange {exchange!r}", lambda it: it.exchange_declare(exchange, durable=True, **how))
        return True

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Publish to the queue by its name, or to the queue of its ladder with a delay that is long enough.

        That one is always a quorum queue: a classic queue passes messages on without a confirm, and loses them if
        the server is killed in that moment.
        """
        queue = name = self._name(exchange, id)
        if delay > 0:
            step = next(step for step in LADDER if step >= delay)
            name = f"{queue}.retry.{step}"
            await self._declare(name, passing_on(queue, "quorum") | {"x-message-ttl": step * 1000})
            self._absent.pop(name, None)
        await self._publish("", name, messages)

    async def _publish(self, exchange: str, routing_key: str, messages: Sequence[Message]) -> None:
        prepared = [(to_properties(message), message.body) for message in messages]
        await self._call(self._publisher, lambda it: patches.publish(it, exchange, routing_key, prepared))

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> RabbitMQSubscription:
        """Consume on a separate channel, whose buffer returns many deliveries in one turn of the event loop."""
        async with asyncio.timeout(REPLY_SECONDS):
            channel = await self._open(self._consumer, publisher_confirms=False, frame_buffer_size=0)
            subscription = RabbitMQSubscription(channel, exchange)
            await channel.basic_qos(prefetch_count=prefetch)
            await channel.basic_consume(self._name(exchange, id), subscription.arrived)
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count the queue and its ladder; not each time, as RabbitMQ logs an error for each missing queue."""
        queue = self._name(exchange, id)
        waiting, consumers = await self._count(queue)
        delayed = 0
        for name in ladder(queue):
            if time.monotonic() > self._absent.get(name, 0.0):
                try:
                    delayed += (await self._count(name))[0]
                except amqp.ChannelNotFoundEntity:
                    self._absent[name] = time.monotonic() + SEARCH_SECONDS
        return QueueStats(waiting, delayed, consumers)

    async def _count(self, queue: str) -> tuple[int, int]:
        found = await self._call(self._consumer, lambda channel: channel.queue_declare(queue, passive=True))
        return found.message_count, found.consumer_count

    async def queues(self) -> list[tuple[str, str]] | None:
        """Ask the management plugin, if the URL names it; its errors do not affect the connections."""
        if not self._management:
            return None
        try:
            return [queue for name in await asyncio.to_thread(self._names) if (queue := named(name))]
        except OSError as error:
            if isinstance(error, HTTPError):
                error.close()
            problem = f"RabbitMQ's management at {self._management} does not list the queues: {error}"
            raise BrokerRefused(problem) from error
        except Exception as error:
            raise BrokerRefused(f"the server at {self._management} is not RabbitMQ's management") from error

    def _names(self) -> list[str]:
        """Thread: the names of all queues."""
        host = quote(self._address.path or "/", safe="")
        login = f"{self._address.user or 'guest'}:{self._address.password or 'guest'}"
        request = Request(f"{self._management}/api/queues/{host}?columns=name")  # noqa: S310, see MANAGEMENT
        # unredirected: no other server gets the password
        request.add_unredirected_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
        with urlopen(request, timeout=5.0, context=self._address.ssl_context()) as answer:  # noqa: S310
            return [str(queue["name"]) for queue in json.load(answer)]

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the queue and its ladder; it is not an error if they do not exist."""
        queue = self._name(exchange, id)
        for name in [*ladder(queue), queue]:
            await self._call(self._consumer, partial(aiormq.Channel.queue_delete, queue=name))

    async def close(self) -> None:
        """Disconnect; the broker requeues unsettled messages."""
        await asyncio.gather(*(one.close() for one in self._connections), return_exceptions=True)


class RabbitMQSubscription:
    """One channel that consumes one queue."""

    lease: float | None = None

    def __init__(self, channel: Any, exchange: str) -> None:
        """Made by RabbitMQTransport.subscribe."""
        self._channel, self._exchange = channel, exchange
        self._buffer = Buffer()
        self._unsettled: dict[int, None] = {}  # delivery tags, oldest first
        channel.closing.add_done_callback(lambda closing: self._lose("the channel is closed"))
        channel.on_consumer_cancel_callbacks.add(lambda frame: self._lose("the broker cancelled the consumer"))

    def _lose(self, reason: str) -> None:
        closed = self._channel.connection.is_closed
        self._buffer.lose(BrokerLost("the connection is closed") if closed else NoSuchQueue(reason))

    async def arrived(self, delivered: DeliveredMessage) -> None:
        """Keep one delivery until `receive` takes it."""
        tag, properties = delivered.delivery_tag or 0, delivered.header.properties
        self._unsettled[tag] = None  # first of all: no acknowledgement of a later one may cover it
        if unreadable := patches.why_unreadable(delivered):
            properties = spec.Basic.Properties()
        headers, at = properties.headers or {}, properties.timestamp
        count = headers.get("x-delivery-count")
        # at the first delivery the header can only be one of a foreign message
        returned = count if delivered.redelivered and isinstance(count, int) else 0
        id, sent = properties.message_id or "", at.timestamp() if at else 0.0
        key = delivered.routing_key or None if delivered.exchange and not unreadable else None
        message = from_headers(self._exchange, delivered.body, own(headers), id, sent, key)
        self._buffer.put(Delivery(message, None, tag, returned, unreadable))

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take messages that have arrived."""
        return await self._buffer.receive(limit, timeout)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge; all those before the oldest unsettled delivery together."""
        tags = {delivery.tag for delivery in deliveries}
        oldest = next((tag for tag in self._unsettled if tag not in tags), max(tags) + 1)
        together = max((tag for tag in tags if tag < oldest), default=0)
        for tag in tags:
            if tag >= together:
                await self._channel.basic_ack(tag, multiple=tag == together, wait=False)
        for tag in tags:  # only now: another one must not settle them along with its own
            del self._unsettled[tag]

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Requeue them."""
        for delivery in deliveries:
            await self._channel.basic_nack(delivery.tag, requeue=True, wait=False)
            del self._unsettled[delivery.tag]

    async def stop(self) -> None:
        """Cancel the consumer, and requeue what has arrived since."""
        for tag in list(self._channel.consumers):
            await self._channel.basic_cancel(tag)
        await self.release(await self._buffer.receive(len(self._unsettled), 0.0))

    async def close(self) -> None:
        """Close the channel; the answer comes after all earlier acknowledgements were processed."""
        await self._channel.close()


def to_properties(message: Message) -> spec.Basic.Properties:
    """Persistent properties for one publish of `message`.

    aiormq matches confirms by message_id, so each may be used once only, and the id of a message, which stays the
    same, is sent in a header (otherwise 200 of 200 were confirmed that the broker did not have).
    """
    headers: Any = own(to_headers(message))
    priority = USUAL_PRIORITY + message.priority if message.priority else None
    return spec.Basic.Properties("application/json", None, headers, 2, priority, message_id=new_id())


def own(headers: Mapping[str, Any]) -> dict[str, str]:
    """The message's own headers, as text."""
    return {name: str(value) for name, value in headers.items() if not RESERVED.match(name)}


def ladder(queue: str) -> list[str]:
    """The names of the queues in which delayed messages for `queue` wait, if they exist."""
    return [f"{queue}.retry.{step}" for step in LADDER]


def passing_on(target: str, kind: str) -> dict[str, Any]:
    """Arguments of a queue of that kind that make RabbitMQ itself pass messages on to the queue `target`."""
    arguments = {"x-queue-type": kind, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
    if kind == "quorum":
        arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    return arguments
