"""ActiveMQ Classic through STOMP 1.2 and stompman's frames; no retrying, decoding or handling.

URL: activemq://user:password@host:port (61613 unless said otherwise), or activemqs:// for TLS, always
    verified (61614). After "?": heartbeat (seconds, default 10), cafile, certfile, keyfile.
Options: by exchange, what ActiveMQ lets a consumer say: {activemq.exclusive: true}, activemq.priority,
    activemq.dispatchAsync.
Delivery: a virtual topic, "VirtualTopic.exchange", and a queue for each id, "Consumer.id.VirtualTopic.exchange",
    which any other client can use too. Persistent messages; a batch is a transaction with a receipt.
    Separate connections publish and consume, since ActiveMQ stops reading from one that publishes, or asks
    it something, while its memory or store is full.
Order: first in, first out with one consumer, no retries and nothing put back.
Delay: a queue "Delayed....", whose messages wait in the consumers until they are due, by their clocks. Of each
    consumer's first 500; what is behind them may come late. Not ActiveMQ's scheduler: it ignores the wish
    silently unless schedulerSupport is on, and no queue counts what it holds.
Dead letters: a queue "Dead.id.VirtualTopic.exchange"; NACK and so ActiveMQ.DLQ are never used.
What it cannot do: count messages that came back because a process died. Delete a queue, for which STOMP has no word:
    it is emptied of what no other connection holds, and collects again what is published until it is deleted in
    ActiveMQ's console. Share a queue that expires, or keep it for another connection: it is a consumer of the topics
    "VirtualTopic.exchange" and "Expiring.id.VirtualTopic.exchange", of the connection that declared it, and ends with
    its subscription or that connection, at once and with what is in it; ActiveMQ may drop the oldest where its limit
    for pending messages of a topic is reached. Without statisticsBrokerPlugin in activemq.xml: say that nobody
    listens (what is published then is lost), list queues or tell whether one is there, count more than 400 messages,
    send to a queue that expires.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import stompman

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, ConfigurationError
from ..message import Message
from ..transport import Features, Options, QueueStats
from .activemq_connection import StompConnection, frame
from .activemq_errors import connecting
from .activemq_message import DUE, to_headers
from .activemq_statistics import Statistics
from .activemq_subscription import WINDOW, ActiveMQSubscription
from .activemq_topology import Topology, delayed, expiring, queue, topic
from .activemq_url import Address

OPTIONS = ("activemq.dispatchAsync", "activemq.exclusive", "activemq.priority")
# ActiveMQ holds a transaction in its memory: one that is larger than that waits for ever
TRANSACTION_BYTES = 512 * 1024
NO_STATISTICS = (
    "its statistics plugin does not answer us, so what is published before there is a queue for it is lost without"
    " notice, and no more than about 400 messages of a queue are counted; the remedy, in activemq.xml:"
    " <plugins><statisticsBrokerPlugin/></plugins> and the right to write to ActiveMQ.Statistics.>, and xstream.jar"
    " and jettison.jar in its lib/optional, where Apache's distribution has them"
)
NO_STORE = (
    "it has no message store of its own on a disk: unless it keeps messages in a database, a restart loses them;"
    ' set persistent="true" and a kahaDB in activemq.xml'
)


class ActiveMQTransport:
    """Two connections to one ActiveMQ, good until either is lost."""

    features = Features(durable=True, shared=True, counts_returns=False, max_bytes=32 * 1024 * 1024)
    blocked = ""
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        address = Address(url)
        self._options = {exchange: _checked(exchange, given) for exchange, given in options.items()}
        self._publisher = StompConnection(address, self._lose)
        self._consumer = StompConnection(address, self._lose)
        self._subscriptions: list[ActiveMQSubscription] = []
        self._expiring: dict[tuple[str, str], ActiveMQSubscription] = {}  # by exchange and id

    async def open(self) -> None:
        await self._publisher.open()
        await self._consumer.open()
        statistics = Statistics(self._publisher)
        with connecting():
            await statistics.open()
        self._topology = Topology(self._publisher, self._consumer, statistics)
        with suppress(BrokerBusy):  # whose memory is full; consumers that come will help
            about = await statistics.broker()
            if not about:
                self._topology.statistics = None
                self.warning = NO_STATISTICS
            elif not about.get("storeUsage", 1):
                self.warning = NO_STORE

    def _lose(self, why: str) -> None:
        """Neither connection is of use without the other: let every subscription start anew."""
        for subscription in self._subscriptions:
            subscription.lose(why)
        self._publisher.lose(why)
        self._consumer.lose(why)

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        """Make the queue; one that expires is a consumer of topics, which collects what comes from now on."""
        if expires is None:
            await self._topology.declare(exchange, id)
            self._expiring.pop((exchange, id), None)  # from now on it lasts
            return
        there = self._expiring.get((exchange, id))
        if there and not there.ended:
            return
        if not (bound or self._topology.statistics):
            problem = "who sends to it finds it by ActiveMQ's statistics plugin, which does not answer us"
            raise BrokerRefused(f"no queue of {id!r} at exchange {exchange!r} that expires: {problem}")
        own = expiring(exchange, id)
        windows = {own: WINDOW, topic(exchange): WINDOW} if bound else {own: WINDOW}
        self._expiring[exchange, id] = await self._consume(exchange, own, WINDOW, windows)

    async def delete(self, exchange: str, id: str) -> None:
        """Take everything out of the queue; one that expires is gone."""
        for subscription in self._subscriptions:
            if subscription.queue in (queue(exchange, id), expiring(exchange, id)):
                subscription.abandon(f"the queue of {id!r} at exchange {exchange!r} was deleted")
        if not self._expiring.pop((exchange, id), None):
            await self._topology.delete(exchange, id)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        await self._topology.check_routable(exchange)
        await self._send(topic(exchange), messages)

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        await self._send(await self._topology.destination(exchange, id), messages, delay)

    async def _send(self, to: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """As long as the broker lives it may take its time: flow control stops it until somebody consumes."""
        more = {DUE: repr(time.time() + delay)} if delay > 0 else {}
        destination = delayed(to) if delay > 0 else to
        for portion in _portions(messages):
            frames = [_send_frame(destination, message, more) for message in portion]
            if len(frames) > 1:
                name = {"transaction": self._publisher.number()}
                for one in frames:
                    one.headers.update(name)
                frames = [frame(stompman.BeginFrame, name), *frames, frame(stompman.CommitFrame, name)]
            await self._publisher.request(*frames, patient=True)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> ActiveMQSubscription:
        there = self._expiring.get((exchange, id))
        if there and there.ended:
            raise BrokerLost(f"the queue of {id!r} at exchange {exchange!r} has expired")
        if there:
            there.prefetch = prefetch
            return there
        name = queue(exchange, id)
        return await self._consume(exchange, name, prefetch, {delayed(name): WINDOW, name: prefetch})

    async def _consume(self, exchange: str, queue: str, prefetch: int, windows: dict[str, int]) -> ActiveMQSubscription:
        async def send_again(messages: Sequence[Message], delay: float) -> None:
            await self._send(queue, messages, delay)

        subscription = ActiveMQSubscription(self._consumer, exchange, queue, prefetch, send_again)
        self._subscriptions.append(subscription)
        await subscription.open(windows, self._options.get(exchange, {}))
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        return await self._topology.stats(exchange, id)

    async def queues(self) -> list[tuple[str, str]] | None:
        return await self._topology.queues()

    async def close(self) -> None:
        await asyncio.gather(self._publisher.close(), self._consumer.close())


def _portions(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """In order, no more than TRANSACTION_BYTES together, or one."""
    portion: list[Message] = []
    size = 0
    for message in messages:
        if portion and size + len(message.body) > TRANSACTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(message)
        size += len(message.body)
    if portion:
        yield portion


def _send_frame(destination: str, message: Message, more: dict[str, str]) -> Any:
    headers = {**to_headers(message), **more, "destination": destination, "content-length": str(len(message.body))}
    return stompman.SendFrame(headers=headers, body=message.body)  # type: ignore[arg-type]


def _checked(exchange: str, given: Any) -> dict[str, str]:
    """Options as STOMP's headers. Raises ConfigurationError."""
    for name, value in given.items():
        where = ("exchanges", exchange, "options", name)
        if name not in OPTIONS:
            raise ConfigurationError(f"{name!r} is no option of ActiveMQ here; there are: {', '.join(OPTIONS)}", *where)
        if not isinstance(value, bool | int):
            raise ConfigurationError(f"{name} is {value!r}; it takes true, false or a whole number", *where)
    return {name: str(value).lower() for name, value in given.items()}
