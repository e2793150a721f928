"""Patches of aiormq and pamqp: they publish batches, and survive undecodable messages; no Message of mqasync here.

They use private names of both libraries: pyproject.toml pins the versions, tests/test_rabbitmq.py and
test_poison.py check that the names exist, and nothing else in mqasync uses them.

Anyone who may publish can send a timestamp of the year 300,000,000, a routing key that is not UTF-8 or headers
nested 5,000 deep: pamqp then raises while it reads the frame, the connection ends, and the broker redelivers the
message, without end. With `tolerate()` such a message is delivered, marked as unreadable.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

import pamqp.frame
from aiormq import spec
from aiormq.abc import ChannelFrame, DeliveredMessage
from pamqp.base import Frame
from pamqp.header import ContentHeader

UNREADABLE = "mqasync-unreadable"  # the one header of properties that could not be read: why
DELIVER = struct.pack(">HH", 60, 60)  # class and method of Basic.Deliver

decode_header = pamqp.frame._unmarshal_header_frame
decode_method = pamqp.frame._unmarshal_method_frame


class Unconfirmed:
    """A batch that waits for its confirms, where aiormq would have a future for each message."""

    def __init__(self, channel: Any, count: int) -> None:
        self.all: asyncio.Future[None] = channel.create_future()  # it fails when the channel closes
        self.done, self.cancelled = self.all.done, self.all.cancelled
        self._left = count

    def set_result(self, frame: Any) -> None:
        """One more message is confirmed."""
        self._left -= 1
        if not self._left and not self.all.done():
            self.all.set_result(None)

    def set_exception(self, error: BaseException) -> None:
        """One message was returned or refused."""
        if not self.all.done():
            self.all.set_exception(error)


async def publish(
    channel: Any, exchange: str, routing_key: str, messages: Sequence[tuple[spec.Basic.Properties, bytes]]
) -> None:
    """Publish `messages` as one batch, mandatory, and return when the broker has confirmed all of them.

    Each needs its own message_id, and nothing else may use the channel meanwhile. Raises what aiormq's
    basic_publish raises, at the first error; the others are still under way then, and the channel must be closed.
    """
    publish = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    command = pamqp.frame.marshal(publish, channel.number)
    unconfirmed = Unconfirmed(channel, len(messages))
    channel.message_id_delivery_tag.clear()
    frames: list[bytes] = []
    for properties, body in messages:
        channel.delivery_tag += 1
        channel.confirmations[channel.delivery_tag] = unconfirmed
        channel.message_id_delivery_tag[properties.message_id] = channel.delivery_tag
        header = ContentHeader(properties=properties, body_size=len(body))
        frames += (command, pamqp.frame.marshal(header, channel.number))
        frames += [pamqp.frame.marshal(part, channel.number) for part in channel._split_body(body)]
    await channel.write_queue.put(ChannelFrame(b"".join(frames), should_close=False))
    await unconfirmed.all


def tolerate() -> None:
    """Let pamqp, in this process, read deliveries for which it would raise. It can be called again."""
    pamqp.frame._unmarshal_header_frame = lenient_header
    pamqp.frame._unmarshal_method_frame = lenient_method


def lenient_header(frame_data: bytes) -> ContentHeader:
    """A content header; one that cannot be decoded has the size of its body and nothing but UNREADABLE."""
    try:
        return decode_header(frame_data)
    except Exception as error:
        (size,) = struct.unpack(">Q", frame_data[4:12])
        why = f"its AMQP properties cannot be decoded: {error!r:.300}"
        return ContentHeader(body_size=size, properties=spec.Basic.Properties(headers={UNREADABLE: why}))


def lenient_method(frame_data: bytes) -> Frame:
    """A method; a Basic.Deliver that cannot be decoded has its tags, and UNREADABLE as routing key."""
    try:
        return decode_method(frame_data)
    except Exception:
        if frame_data[:4] != DELIVER:
            raise
        length = frame_data[4]
        (delivery_tag,) = struct.unpack(">Q", frame_data[5 + length : 13 + length])
        tag = frame_data[5 : 5 + length].decode()
        return spec.Basic.Deliver(consumer_tag=tag, delivery_tag=delivery_tag, routing_key=UNREADABLE)


def why_unreadable(delivered: DeliveredMessage) -> str:
    """What of a delivery could not be decoded; empty if nothing."""
    if delivered.routing_key == UNREADABLE:
        return "its AMQP routing key is not UTF-8"
    return str((delivered.header.properties.headers or {}).get(UNREADABLE, ""))
