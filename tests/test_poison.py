"""Messages that pamqp cannot decode: each ends among the dead letters, those behind it are handled, nobody reconnects.

The payloads are those of ../shared/FAULTS.md, written to the socket byte by byte, as no client library would.
"""

import struct
from typing import Any

import aio_pika
import pamqp.frame
import pytest
from aiormq import spec
from aiormq.abc import ChannelFrame

from mqasync import Message, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.core.channel import Channel
from mqasync.handlers.step import Step
from mqasync.message import new_id
from mqasync.transport import DEAD
from mqasync.transports import rabbitmq_patches

from .waiting import depth, until

BODY = b'{"poison": true}'
BAD_TEXT = b"\xff\xfe\n"
FAR_AWAY = {"2^63": 2**63, "2^64-1": 2**64 - 1, "2^62": 2**62, "the year 318,857": 10**16}
# flag and place of each property of AMQP 0-9-1 that is text and that RabbitMQ does not check
TEXTS = {"content_type": 15, "content_encoding": 14, "correlation_id": 10, "reply_to": 9, "message_id": 7}
TEXTS |= {"type": 5, "app_id": 3}


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def field(kind: bytes, value: bytes, name: bytes = b"h") -> bytes:
    return short(name) + kind + value


def long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def headers(*fields: bytes) -> bytes:
    return struct.pack(">H", 1 << 13) + long(b"".join(fields))


def nested(depth: int, table: bool) -> bytes:
    data = b""
    for _ in range(depth):
        data = field(b"F", long(data)) if table else b"A" + long(data)
    return headers(data if table else field(data[:1], data[1:]))


def stamp(seconds: int) -> bytes:
    return struct.pack(">Q", seconds)


PROPERTIES = {
    **{f"timestamp {name}": struct.pack(">H", 1 << 6) + stamp(value) for name, value in FAR_AWAY.items()},
    **{f"header timestamp {name}": headers(field(b"T", stamp(value))) for name, value in FAR_AWAY.items()},
    **{f"{name} not UTF-8": struct.pack(">H", 1 << bit) + short(BAD_TEXT) for name, bit in TEXTS.items()},
    **{f"tables {depth} deep": nested(depth, True) for depth in (600, 1000, 2000, 5000)},
    **{f"arrays {depth} deep": nested(depth, False) for depth in (600, 1000, 2000, 5000)},
    "header key not UTF-8": headers(field(b"t", b"\1", BAD_TEXT)),
    "header key of 128 bytes not UTF-8": headers(field(b"t", b"\1", b"\xff" * 128)),
    "key in a table not UTF-8": headers(field(b"F", long(field(b"t", b"\1", BAD_TEXT)))),
    "timestamp in a table": headers(field(b"F", long(field(b"T", stamp(2**63))))),
    "timestamp in an array": headers(field(b"A", long(b"T" + stamp(2**63)))),
}
ROUTING_KEYS = {"routing key not UTF-8": BAD_TEXT, "routing key of 255 bytes not UTF-8": b"\xff" * 255}
POISON = {name: (properties, b"") for name, properties in PROPERTIES.items()}
POISON |= {name: (b"\0\0", key) for name, key in ROUTING_KEYS.items()}
LARGE = {  # readable, but too large to be sent to a retry or dead letter queue with what that adds
    "headers of 100 kB": headers(*(field(b"S", long(b"x" * 1000), b"h%d" % n) for n in range(100))),
    "id of 100 kB": headers(field(b"S", long(b"x" * 100_000), b"mqasync-id")),
    "key of 100 kB": headers(field(b"S", long(b"x" * 100_000), b"mqasync-key")),
}
ODD = {  # strange, but readable: they are handled
    "header not UTF-8": headers(field(b"S", long(BAD_TEXT))),
    "header decimal": headers(field(b"D", b"\xff" + struct.pack(">I", 2**32 - 1))),
    "tables 100 deep": nested(100, True),
    "time that is not a number": headers(field(b"S", long(b"nan"), b"mqasync-time")),
    "time without end": headers(field(b"S", long(b"1e999"), b"mqasync-time")),
    "attempt of a billion": headers(field(b"I", struct.pack(">i", 10**9), b"mqasync-attempt")),
    "negative attempt": headers(field(b"I", struct.pack(">i", -(10**9)), b"mqasync-attempt")),
    "forged x-death": headers(field(b"S", long(b"x"), b"x-death"), field(b"S", long(b"x"), b"x-delivery-count")),
    "id on many lines": struct.pack(">H", 1 << 7) + short(b"one\r\n12:00:00 WARNING two\x1b[31m"),
    "copies to another queue": headers(field(b"A", long(b"S" + long(b"elsewhere")), b"CC")),
}


class Stranger:
    """Someone who may publish, and writes what he likes."""

    def __init__(self, url: str, exchange: str) -> None:
        self.url, self.exchange = url, exchange

    async def __aenter__(self) -> "Stranger":
        self.connection = await aio_pika.connect(self.url)
        self.channel: Any = await (await self.connection.channel()).get_underlay_channel()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.connection.close()

    async def publish(self, properties: bytes, routing_key: bytes = b"", body: bytes = BODY) -> None:
        """Return when the broker has confirmed it."""
        number = self.channel.number
        method = struct.pack(">HHH", 60, 40, 0) + short(self.exchange.encode()) + short(routing_key) + b"\0"
        content = struct.pack(">HHQ", 60, 0, len(body)) + properties
        frames = b"".join(
            struct.pack(">BHI", kind, number, len(payload)) + payload + b"\xce"
            for kind, payload in ((1, method), (2, content), (3, body))
        )
        self.channel.delivery_tag += 1
        confirmed = self.channel.create_future()
        self.channel.confirmations[self.channel.delivery_tag] = confirmed
        await self.channel.write_queue.put(ChannelFrame(frames, should_close=False, drain_future=None))
        await confirmed


def test_what_is_patched_is_there_in_the_pinned_versions() -> None:
    rabbitmq_patches.tolerate()
    rabbitmq_patches.tolerate()
    deliver = spec.Basic.Deliver("tag", 7, False, "", "key")
    again: Any = pamqp.frame.unmarshal(pamqp.frame.marshal(deliver, 1))[2]
    assert again.routing_key == "key"
    with pytest.raises(pamqp.exceptions.UnmarshalingException):
        pamqp.frame._unmarshal_method_frame(struct.pack(">HH", 60, 61))


def test_there_are_at_least_thirty_poisons() -> None:
    assert len(POISON) + len(ODD) >= 30
    assert len(POISON) >= 25


async def test_every_poison_is_dead_lettered_what_is_odd_is_handled_and_nobody_reconnects(
    rabbitmq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = f"E{new_id()}"
    handled: list[Message] = []

    @consumer(exchange=exchange, id="q", prefetch=10)
    async def handler(body: bytes, message: Message) -> None:
        if body == b"large":
            raise ValueError("not today")
        handled.append(message)

    brokers = Brokers(Settings(brokers={"main": rabbitmq_url}))
    channel = Channel(Step(handler, brokers.publish, {}), brokers.route(exchange))
    await channel.declare()
    channel.start()
    transport = await brokers.route(exchange).connected()
    # When a stranger publishes poison, each followed by an innocent message, and what is odd
    async with Stranger(rabbitmq_url, exchange) as stranger:
        for properties, routing_key in POISON.values():
            await stranger.publish(properties, routing_key)
            await stranger.publish(b"\0\0", body=b"innocent")
        for properties in LARGE.values():
            await stranger.publish(properties, body=b"large")
        for properties in ODD.values():
            await stranger.publish(properties, body=b"odd")

    # Then the innocent and the odd are handled, every poison is dead-lettered
    dead_lettered = len(POISON) + len(LARGE)

    def done() -> bool:
        return len(handled) >= len(POISON) + len(ODD) and channel.counts.dead_lettered >= dead_lettered

    await until(done, f"{dead_lettered} are dead-lettered and the others handled")
    bodies = [message.body for message in handled]
    assert (bodies.count(b"innocent"), bodies.count(b"odd")) == (len(POISON), len(ODD))
    assert all(0 < message.time < 1e11 and 1 <= message.attempt <= 1_000_000 for message in handled)
    assert not [name for message in handled for name in message.headers if name.startswith(("CC", "x-"))]
    assert await depth(transport, exchange, "q" + DEAD) == dead_lettered
    # And the connection is the same as before
    assert await brokers.route(exchange).connected() is transport
    said = [record.getMessage() for record in caplog.records]
    assert not [line for line in said if "lost" in line or not line.isprintable()]
    # And they can be read there, with the reason
    subscription = await transport.subscribe(exchange, "q" + DEAD, 100)
    dead: list[Message] = []
    while len(dead) < dead_lettered:
        dead += [delivery.message for delivery in await subscription.receive(100, 5.0)]
    assert {message.body for message in dead} == {BODY, b"large"}
    reasons = [message.headers["dead-message"] for message in dead]
    assert all(any(word in reason for word in ("decoded", "UTF-8", "bytes for")) for reason in reasons), reasons
    assert {message.headers["dead-reason"] for message in dead} == {"InvalidMessage"}
    await channel.drain(1.0)
    await brokers.close()
