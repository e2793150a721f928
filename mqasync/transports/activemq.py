"""ActiveMQ Classic through STOMP 1.2, with stompman's frames.

URL: activemq://user:password@host:port (port 61613 by default), or activemqs:// for TLS, always
    verified (61614). After "?": heartbeat (seconds, default 10), cafile, certfile, keyfile.
Options: by exchange, settings of ActiveMQ for its consumers: {activemq.exclusive: true}, activemq.priority,
    activemq.dispatchAsync. `queue` of a consumer names an existing queue, see docs/existing.md.
Delivery: a virtual topic, "VirtualTopic.exchange", and a queue for each id, "Consumer.id.VirtualTopic.exchange",
    which any other client can use too, through ASCII headers; more than 4 kB of headers are put before the body.
    Messages are persistent; a batch is a transaction with a receipt.
    Publishing and consuming have separate connections, because ActiveMQ stops reading from a connection that
    publishes or makes requests while its memory or store is full. Unacknowledged messages are redelivered when their
    connection ends.
Order: first in, first out with one consumer, no retries and no requeued messages.
Delay: a queue "Delayed....", whose messages wait in the consumers until they are due, by their clocks: the first 500
    of each consumer; those behind them may come late. ActiveMQ's scheduler is not used: it silently ignores delays
    unless schedulerSupport is on, and no queue counts its messages.
Dead letters: a queue "Dead.id.VirtualTopic.exchange"; NACK and so ActiveMQ.DLQ are never used.
What it cannot do: count messages that were redelivered because a process died. Delete a queue, which STOMP cannot:
    messages that no other connection has in flight are removed, and new ones are collected again until the queue is
    deleted in ActiveMQ's console. Share a temporary queue, or keep it for another connection: it is a consumer of the
    topics "VirtualTopic.exchange" and "Expiring.id.VirtualTopic.exchange", of the connection that declared it, and
    ends with its subscription or that connection, immediately and with its messages; ActiveMQ may drop the oldest
    when its limit for pending messages of a topic is reached. Without statisticsBrokerPlugin in activemq.xml: notice
    that an exchange has no queue (its messages are lost then), list queues or check that one exists (one that
    config.yml names is created then), count more than 400 messages, send to a temporary queue.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import stompman

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, ConfigurationError, NoSuchQueue
from ..message import Message
from ..transport import DEAD, Delivery, Errors, Features, Options, QueueStats
from .common.buffer import Buffer
from .common.envelope import TIME, from_ascii, to_ascii
from .common.url import Address, Key, check_options, existing, missing, parse

FORM = "activemq://user:password@host:port"
OPTIONS = {
    "activemq.dispatchAsync": Key(True),
    "activemq.exclusive": Key(False),
    "activemq.priority": Key(0, least=0, most=127),
}
# Delayed messages held here until they are due. ActiveMQ 5.17 may stop at 600 unsettled messages of a queue until
# one is acknowledged or another comes, unless its maxPageSize is larger.
WINDOW = 500
PINGS_MS = 15_000  # the core pings every 5 s, which is our heartbeat
FULL_SECONDS = 3.0  # after which we go on without an answer: the broker's memory may be full
CLOSE_SECONDS = 2.0
QUIET_SECONDS = 0.5  # a queue from which no message has come for so long is empty
DUE = "mqasync-due"  # header: seconds since 1970 before which a delayed message must not be handled
MARKER = "mqasync_marker"  # header of a message that only creates a queue; a selector cannot name it with a hyphen
# ActiveMQ acts on these or writes them.
RESERVED = re.compile(
    r"ack|amq-msg-type|browser|content-(length|type)|correlation-id|destination|expires|id|message-id"
    r"|original-destination|persistent|priority|receipt|redelivered|reply-to|selector|subscription|timestamp"
    rf"|transaction|transformation(-error)?|type|(JMS|AMQ_).*|{DUE}|{MARKER}"
)
BY_SENDERS = re.compile("content-type|correlation-id|reply-to|type|JMSXGroup.*")  # of those, never by ActiveMQ
HEADERS = 4_000  # bytes of them in a message, more are put before its body; ActiveMQ accepts 10 KB in each
ABOUT = "ActiveMQ.Statistics.Destination"
ABOUT_BROKER = "/topic/ActiveMQ.Statistics.Broker"  # a topic: without the plugin it is only dropped
ANSWERS = "/temp-queue/mqasync"
NO_STATISTICS = (
    "its statistics plugin does not answer, so messages for an exchange without a queue are lost without an error,"
    " and no more than about 400 messages of a queue are counted; to enable it, add to activemq.xml"
    " <plugins><statisticsBrokerPlugin/></plugins> and the right to write to ActiveMQ.Statistics.>, with xstream.jar"
    " and jettison.jar in its lib/optional, as in Apache's distribution"
)
NO_STORE = (
    "it has no message store of its own on a disk: unless it keeps messages in a database, a restart loses them;"
    ' set persistent="true" and a kahaDB in activemq.xml'
)
STOMP: Any = stompman  # its types know no headers of ActiveMQ


class Complaint(Exception):
    """An ERROR frame. It has no code, only the text of a Java exception."""


ERRORS: Errors = (
    (BrokerRefused, ["SecurityException", "not authorized", "password is invalid", "InvalidDestination"]),
    (BrokerBusy, [Complaint]),  # a full store, a transaction rolled back
    (BrokerLost, [ValueError], "it sent something that is not STOMP"),
)


class Frame(NamedTuple):
    """One frame from the server."""

    command: str
    headers: dict[str, str]
    body: bytes


def take_frame(buffer: bytearray) -> Frame | None:
    """Take the first frame out of the buffer; None if it is not complete. Raises ValueError for what is not STOMP.

    stompman's parser looks at every byte in Python: 20 times slower, and 1 MB blocks the event loop for 0.2 s.
    """
    while buffer.startswith((b"\n", b"\r")):  # heartbeats, and line ends after frames
        del buffer[0]
    body = buffer.find(b"\n\n") + 2
    if body < 2:
        return None
    command, *lines = buffer[: body - 2].decode(errors="replace").split("\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, text = map(unescaped, line.partition(":")) if "\\" in line else line.partition(":")
        headers.setdefault(name, text)  # of several, the first counts
    end = body + int(headers["content-length"]) if "content-length" in headers else buffer.find(b"\0", body)
    if not body <= end < len(buffer):
        return None
    frame = Frame(command, headers, bytes(buffer[body:end]))
    del buffer[: end + 1]
    return frame


def unescaped(text: str) -> str:
    """`text` without STOMP 1.2's escapes."""
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r", "c": ":"}.get(found[1], found[1]), text)


def words(frame: Frame) -> str:
    """The text of an ERROR; why a transaction failed is in its body."""
    cause = frame.body.decode(errors="replace").rpartition("Caused by: ")[2]
    return cause.partition("\n")[0] or frame.headers.get("message", "")


class Connection:
    """One connection. When it ends, `lost` is called, and present and later calls raise why."""

    def __init__(self, lost: Callable[[BaseException | None], object]) -> None:
        self.numbers = map(str, itertools.count())  # names of subscriptions, transactions and receipts
        self._lost = lost
        self._why = "it closed the connection"
        self._receivers: dict[str, Callable[[Frame], object]] = {}  # by subscription or receipt

    async def open(self, address: Address) -> None:
        """Connect. Raises BrokerRefused if the server is not ActiveMQ Classic."""
        (host, port), beat = address.hosts[0], address.settings["heartbeat"]
        reader, self._writer = await asyncio.open_connection(host, port, ssl=address.ssl_context())
        self._reading = asyncio.create_task(self._read(reader, 2 * beat))
        self._reading.add_done_callback(lambda ended: ended.cancelled() or self._lost(ended.exception()))
        headers = {"accept-version": "1.2", "host": host, "heart-beat": f"{PINGS_MS},{1000 * beat}"}
        if address.user:
            headers |= {"login": address.user, "passcode": address.password}
        server = (await self.request(STOMP.ConnectFrame(headers=headers))).headers.get("server", "")
        if not server.startswith("ActiveMQ/"):  # Artemis says "ActiveMQ-Artemis/"
            raise BrokerRefused(f"it is {server[:60] or 'not ActiveMQ'}; this transport needs ActiveMQ Classic")

    async def _read(self, reader: asyncio.StreamReader, silence: float) -> Frame:
        """Pass on frames until none has come for `silence` seconds; it raises, and never returns."""
        buffer = bytearray()
        while True:
            async with asyncio.timeout(silence):
                chunk = await reader.read(2**20)
            if not chunk:
                raise ConnectionError(self._why)
            buffer += chunk
            while frame := take_frame(buffer):
                key = "subscription" if frame.command == "MESSAGE" else "receipt-id"
                receiver = self._receivers.get(frame.headers.get(key, "0"))  # CONNECTED answers the first request
                if receiver:
                    receiver(frame)
                elif frame.command == "ERROR":
                    self._why = words(frame)  # perhaps why it then closes the connection

    def write(self, *frames: Any) -> None:
        """Send frames, or without any a heartbeat."""
        if self._reading.done():
            self._reading.result()
        self._writer.write(b"".join(map(stompman.dump_frame, frames)) or b"\n")

    async def request(self, *frames: Any) -> Frame:
        """Send frames, and wait until the broker has processed the last."""
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        receipt = frames[-1].headers["receipt"] = next(self.numbers)
        self._receivers[receipt] = answer.set_result
        try:
            self.write(*frames)
            await asyncio.wait([answer, self._reading], return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._receivers[receipt]
        frame = answer.result() if answer.done() else self._reading.result()
        if frame.command == "ERROR":
            raise Complaint(words(frame))
        return frame

    async def subscribe(self, destination: str, receiver: Callable[[Frame], object], **headers: str) -> str:
        """Pass messages to `receiver`; return the name for `unsubscribe`."""
        name = next(self.numbers)
        self._receivers[name] = receiver
        headers = {"ack": "auto", **headers, "id": name, "destination": destination}
        try:
            await self.request(STOMP.SubscribeFrame(headers=headers))
        except BaseException:  # messages that it gets would be lost to everyone
            self.unsubscribe(name)
            raise
        return name

    def unsubscribe(self, name: str) -> None:
        """End a subscription; the broker requeues unacknowledged messages."""
        del self._receivers[name]
        self.write(STOMP.UnsubscribeFrame(headers={"id": name}))

    async def close(self) -> None:
        """Disconnect after everything that was sent before."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.request(STOMP.DisconnectFrame(headers={}))
        finally:
            self._reading.cancel()
            self._writer.transport.abort()


def topic(exchange: str) -> str:
    """The topic of an exchange: ActiveMQ copies its messages to every queue of the exchange."""
    return f"/topic/VirtualTopic.{exchange}"


def queue(exchange: str, id: str) -> str:
    """The queue of an id or its dead-letter queue, to which ActiveMQ must not copy; an id has no dot."""
    kind = "Dead" if id.endswith(DEAD) else "Consumer"
    return f"/queue/{kind}.{id.removesuffix(DEAD)}.VirtualTopic.{exchange}"


def passing(exchange: str, id: str) -> str:
    """The topic for messages to one temporary queue alone."""
    return f"/topic/Expiring.{id}.VirtualTopic.{exchange}"


def delayed(destination: str) -> str:
    """Where delayed messages for a queue wait; consumers of a topic have all of them from the start."""
    return destination.replace("/queue/", "/queue/Delayed.", 1)


def to_frame(destination: str, message: Message, more: dict[str, str]) -> Any:
    """A SEND frame. Headers that ActiveMQ can carry are its headers, so that other programs can select by them."""
    headers, body = to_ascii(message, HEADERS, RESERVED)
    headers |= {**more, "persistent": "true", "destination": destination, "content-length": str(len(body))}
    if message.priority:  # JMS: 4 is usual, 9 the highest
        headers["priority"] = str(min(9, 4 + message.priority))
    return STOMP.SendFrame(headers=headers, body=body)


def to_message(exchange: str, frame: Frame) -> Message:
    """The message, published by mqasync or by another program."""
    told = frame.headers.items()
    headers = {name: text for name, text in told if BY_SENDERS.fullmatch(name) or not RESERVED.fullmatch(name)}
    headers.setdefault(TIME, frame.headers.get("timestamp", "")[:-3])  # that in milliseconds
    return from_ascii(exchange, headers, frame.body, frame.headers.get("message-id", ""))


def entries(body: bytes) -> dict[str, Any]:
    """The entries of a map message that ActiveMQ has converted to JSON; none of anything else."""
    with suppress(msgspec.DecodeError, LookupError, TypeError, AttributeError, ValueError):
        pairs = [list(entry.values()) for entry in msgspec.json.decode(body)["map"]["entry"]]
        return dict(pair if len(pair) == 2 else pair[0] for pair in pairs)  # {"string": "a", "int": 3} or two of a kind
    return {}


class ActiveMQTransport:
    """Two connections to one ActiveMQ: one publishes and makes requests, the other consumes."""

    # ActiveMQ keeps a transaction in its memory: one that is larger than that waits for ever
    features = Features(counts_returns=False, priorities=True, max_bytes=2**25, batch_bytes=2**19, temporary=True)
    errors = ERRORS
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options."""
        port = 61614 if url.startswith("activemqs:") else 61613
        self._address = parse(url, form=FORM, port=port, keys={"heartbeat": Key(10, least=1)}, secure="activemqs")
        if self._address.path:
            raise ConfigurationError(f"an activemq URL has no path, and '/{self._address.path}' is one: {FORM}")
        if not (self._address.user + self._address.password).isprintable():
            raise ConfigurationError("user and password of an ActiveMQ URL must be one line of printable characters")
        self._options = check_options(options, OPTIONS, "ActiveMQ", ["queue"])
        self._publisher, self.consumer = Connection(self._lost), Connection(self._lost)
        self.subscriptions: list[ActiveMQSubscription] = []
        self._addresses: dict[tuple[str, str], str] = {}  # where to send, by exchange and id
        self._statistics = True
        self._answers: asyncio.Queue[Frame] = asyncio.Queue()
        self._asking = asyncio.Lock()

    def _lost(self, error: BaseException | None) -> None:
        for subscription in self.subscriptions:
            subscription.buffer.lose(error or BrokerLost("it closed the connection"))

    async def open(self) -> None:
        """Connect twice, and ask for the server's statistics and store."""
        await self._publisher.open(self._address)
        await self.consumer.open(self._address)
        await self._publisher.subscribe(ANSWERS, self._answers.put_nowait, transformation="jms-map-json")
        with suppress(TimeoutError):
            async with asyncio.timeout(FULL_SECONDS):
                about = await self._ask(ABOUT_BROKER, ANSWERS)
                self._statistics = bool(about)
                self.warning = NO_STATISTICS if not about else "" if about[0].get("storeUsage", 1) else NO_STORE

    async def _ask(self, *destinations: str) -> list[dict[str, Any]]:
        """The answers to requests to `destinations`; the request to the last one makes an empty answer follow."""
        async with self._asking:
            headers = {"reply-to": ANSWERS, "correlation-id": next(self._publisher.numbers)}
            await self._publisher.request(
                *(STOMP.SendFrame(headers={"destination": one, **headers}) for one in destinations)
            )
            answers: list[dict[str, Any]] = []
            while not answers or answers[-1]:
                frame = await self._answers.get()
                if frame.headers.get("correlation-id") == headers["correlation-id"]:
                    answers.append(entries(frame.body))
            return answers[:-1]

    async def _about(self, *destinations: str) -> dict[str, tuple[int, int]]:
        """Of those that exist, such as /queue/A.*, by names such as /queue/A.b: messages and consumers."""
        questions = [re.sub("^(/[^/]+/)", rf"\1{ABOUT}", one) for one in destinations]
        answers = await self._ask(*questions[:-1], f"{questions[-1]}{ABOUT}.List.End.With.Null")
        names = ["/" + one["destinationName"].replace("://", "/", 1) for one in answers]
        return {name: (int(one["size"]), int(one["consumerCount"])) for name, one in zip(names, answers, strict=True)}

    async def ping(self) -> None:
        """Begin and abort a transaction, which works also while the broker's memory is full."""
        self._publisher.write()
        headers = {"transaction": next(self.consumer.numbers)}
        await self.consumer.request(STOMP.BeginFrame(headers=headers), STOMP.AbortFrame(headers={**headers}))

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Create a queue that survives a kill of the broker: ActiveMQ remembers only queues that have had a message.

        Browsing a queue creates it as well; that is enough while the broker accepts no message. A queue that
        config.yml names gets none: if the statistics say that it does not exist, BrokerRefused is raised.
        """
        name = self._addresses[exchange, id] = (passing if temporary else self._queue)(exchange, id)
        if temporary:
            if not bound and not self._statistics:
                raise BrokerRefused(
                    f"no temporary queue {id!r} is possible, as senders find it by statistics; {NO_STATISTICS}"
                )
            await self._consume(exchange, name, {name: WINDOW, topic(exchange): WINDOW} if bound else {name: WINDOW})
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(FULL_SECONDS):
                there, theirs = self._statistics and await self._about(name), existing(self._options, exchange, id)
                if theirs and self._statistics and not there:
                    raise missing(f"queue {theirs!r}")
                if not theirs and not there:
                    headers = {"destination": name, MARKER: "1", "persistent": "true"}
                    await self._publisher.request(STOMP.SendFrame(headers=headers))
                return
        await self._count(name, browser="true")

    def _queue(self, exchange: str, id: str) -> str:
        """The queue that config.yml names, or ours."""
        theirs = existing(self._options, exchange, id)
        return f"/queue/{theirs}" if theirs else queue(exchange, id)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Send to the topic."""
        await self.put(topic(exchange), messages)

    async def bound(self, exchange: str) -> bool:
        """Ask for queues; True without statistics, as there is no other way to know."""
        if not self._statistics:
            return True
        there = await self._about(topic(exchange), queue(exchange, "*"))
        return any(name.startswith("/queue/") or consumers for name, (_, consumers) in there.items())

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Send to the queue."""
        await self.put(self._addresses.get((exchange, id), self._queue(exchange, id)), messages, delay)

    async def put(self, destination: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Send there, several in a transaction; flow control may block it until messages are consumed."""
        more = {DUE: repr(time.time() + delay)} if delay else {}
        frames = [to_frame(delayed(destination) if delay else destination, one, more) for one in messages]
        if len(frames) > 1:
            transaction = {"transaction": next(self._publisher.numbers)}
            for frame in frames:
                frame.headers.update(transaction)
            frames = [STOMP.BeginFrame(headers=transaction), *frames, STOMP.CommitFrame(headers={**transaction})]
        await self._publisher.request(*frames)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> ActiveMQSubscription:
        """Consume from the queue and from its delayed messages."""
        address = self._addresses.get((exchange, id), self._queue(exchange, id))
        return await self._consume(exchange, address, {delayed(address): WINDOW, address: prefetch})

    async def _consume(self, exchange: str, address: str, windows: dict[str, int]) -> ActiveMQSubscription:
        for subscription in self.subscriptions:
            if subscription.address == address and address.startswith("/topic/"):  # it began when it was declared
                return subscription
        subscription = ActiveMQSubscription(self, exchange, address)
        self.subscriptions.append(subscription)
        given = self._options.get(exchange, {}).items()
        options = {name: str(value).lower() for name, value in given if name in OPTIONS}
        for destination, window in windows.items():
            headers = {**options, "ack": "client-individual", "activemq.prefetchSize": str(window)}
            subscription.names.append(await self.consumer.subscribe(destination, subscription.arrived, **headers))
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count messages, without statistics no more than ActiveMQ shows of each queue."""
        name, other = self._queue(exchange, id), passing(exchange, id)
        late = delayed(name)
        if not self._statistics:
            ours = f"{MARKER} IS NULL"
            return QueueStats(*[await self._count(one, browser="true", selector=ours) for one in (name, late)])
        there = await self._about(name, late, other)
        self._addresses[exchange, id] = other if name not in there and other in there else name
        size, consumers = there.get(name, (0, there.get(other, (0, 0))[1]))
        if name not in there and not consumers:
            return None
        markers = size and await self._count(name, browser="true", selector=f"{MARKER} = '1'")
        return QueueStats(max(0, size - markers), there.get(late, (0, 0))[0], consumers)

    async def _count(self, queue: str, patience: float | None = None, **headers: str) -> int:
        """How many messages come until the end; ActiveMQ shows 400 of a queue unless configured otherwise."""
        seen, frames = 0, asyncio.Queue[Frame]()
        name = await self.consumer.subscribe(queue, frames.put_nowait, **headers)
        try:
            while (await asyncio.wait_for(frames.get(), patience)).headers.get("browser") != "end":
                seen += 1
        finally:
            self.consumer.unsubscribe(name)
        return seen

    async def queues(self) -> list[tuple[str, str]] | None:
        """The queues that are not temporary, by their names."""
        if not self._statistics:
            return None
        names = [name.split(".", 3) for name in await self._about(queue(">", "*"), queue(">", "*" + DEAD))]
        return [(exchange, id + DEAD if kind == "/queue/Dead" else id) for kind, id, _, exchange in names]

    async def delete(self, exchange: str, id: str) -> None:
        """Remove all messages that are not in flight from the queue; a temporary one is deleted."""
        address = self._addresses.get((exchange, id), self._queue(exchange, id))
        for subscription in [one for one in self.subscriptions if one.address == address]:
            await subscription.close()
            subscription.buffer.lose(NoSuchQueue(f"queue {id!r} of exchange {exchange!r} was deleted"))
        for name in (address, delayed(address)) if address.startswith("/queue/") else ():
            with suppress(TimeoutError):
                await self._count(name, QUIET_SECONDS)

    async def close(self) -> None:
        """Disconnect."""
        await asyncio.gather(self._publisher.close(), self.consumer.close(), return_exceptions=True)


class ActiveMQSubscription:
    """One consumer of one queue, two in STOMP; delayed messages wait here until they are due."""

    lease: float | None = None

    def __init__(self, transport: ActiveMQTransport, exchange: str, address: str) -> None:
        """Made by ActiveMQTransport.subscribe."""
        self.address = address
        self.names: list[str] = []
        self.buffer = Buffer()
        self._transport, self._exchange = transport, exchange
        self._early: list[tuple[float, str, Delivery]] = []

    def arrived(self, frame: Frame) -> None:
        """Keep a message until `receive`; a marker has created its queue and is acknowledged."""
        delivery = Delivery(to_message(self._exchange, frame), tag=frame.headers["ack"])
        if MARKER in frame.headers:
            self._transport.consumer.write(STOMP.AckFrame(headers={"id": delivery.tag}))
            return
        due = frame.headers.get(DUE, "")
        if re.fullmatch(r"[0-9]{10}\.[0-9]+", due):
            heapq.heappush(self._early, (float(due), delivery.tag, delivery))
        else:
            self.buffer.put(delivery)

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take messages that have come and are due; delayed ones that come meanwhile may be late by `timeout`."""
        while self._early and self._early[0][0] <= time.time():
            self.buffer.put(heapq.heappop(self._early)[-1])
        if self._early:
            timeout = min(timeout, max(0.0, self._early[0][0] - time.time()))
        return await self.buffer.receive(limit, timeout)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge; there is no answer."""
        self._transport.consumer.write(*(STOMP.AckFrame(headers={"id": delivery.tag}) for delivery in deliveries))

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Send them again: a NACK would move them to ActiveMQ's own dead-letter queue."""
        await self._transport.put(self.address, [delivery.message for delivery in deliveries])
        await self.ack(deliveries)

    async def close(self) -> None:
        """Stop receiving; the broker requeues unacknowledged messages."""
        self._transport.subscriptions.remove(self)
        for name in self.names:
            self._transport.consumer.unsubscribe(name)
