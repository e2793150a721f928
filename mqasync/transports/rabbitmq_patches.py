"""What aiormq and pamqp do not offer: publishing a batch, and surviving poison; no message of mqasync here.

Names are used that neither promises: pyproject.toml pins both, tests/test_rabbitmq.py and test_poison.py
check that they are there, and nothing else in mqasync knows them.

Poison: anyone who may publish can write a timestamp of the year 300,000,000, a routing key that is not UTF-8
or headers nested 5,000 deep: pamqp raises while it reads the frame, the connection ends, the broker delivers
the message again. With `tolerate()` such a delivery arrives, marked as unreadable.
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
    """A batch that waits for its confirmations, in the place where aiormq has a future for each message."""

    def __init__(self, channel: Any, count: int) -> None:
        self.all: asyncio.Future[None] = channel.create_future()  # it fails when the channel closes
        self.done, self.cancelled = self.all.done, self.all.cancelled
        self._left = count

    def set_result(self, frame: Any) -> None:
        """One more is confirmed."""
        self._left -= 1
        if not self._left and not self.all.done():
            self.all.set_result(None)

    def set_exception(self, error: BaseException) -> None:
        """One was returned or refused."""
        if not self.all.done():
            self.all.set_exception(error)


async def publish(
    channel: Any, exchange: str, routing_key: str, messages: Sequence[tuple[spec.Basic.Properties, bytes]]
) -> None:
    """Publish `messages`, mandatory, in one piece, and return when the broker has confirmed all of them.

    Each needs a message_id of its own, and nobody else uses the channel meanwhile. Raises what aiormq's
    basic_publish raises, at the first error; then the rest is under way, and the channel to be closed.
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
    """From now on pamqp reads, in this process, what it would raise for in a delivery. Safe to repeat."""
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
    """What of a delivery could not be decoded; empty if all is well."""
    if delivered.routing_key == UNREADABLE:
        return "its AMQP routing key is not UTF-8"
    return str((delivered.header.properties.headers or {}).get(UNREADABLE, ""))
