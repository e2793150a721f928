"""Deliveries that pamqp cannot decode, kept from ending the connection again and again; nothing else is changed.

Anyone who may publish can write a timestamp of the year 300,000,000, a routing key that is not UTF-8 or
headers nested 5,000 deep: pamqp raises while it reads the frame, the connection ends, the broker delivers the
message again (../shared/FAULTS.md). With `tolerate()` such a delivery arrives, marked as unreadable.
Names that pamqp does not promise are used: pyproject.toml pins it, tests/test_poison.py checks them.
"""

from __future__ import annotations

import struct

import pamqp.frame
from aiormq import spec
from pamqp.base import Frame
from pamqp.exceptions import UnmarshalingException
from pamqp.header import ContentHeader

UNREADABLE = "mqasync-unreadable"  # the one header of properties that could not be read: why
POISON = (UnmarshalingException, ValueError, OverflowError, OSError, RecursionError)
DELIVER = struct.pack(">HH", 60, 60)  # class and method of Basic.Deliver

decode_header = pamqp.frame._unmarshal_header_frame
decode_method = pamqp.frame._unmarshal_method_frame


def tolerate() -> None:
    """From now on pamqp reads, in this process, what it would raise for in a delivery. Safe to repeat."""
    pamqp.frame._unmarshal_header_frame = header
    pamqp.frame._unmarshal_method_frame = method


def header(frame_data: bytes) -> ContentHeader:
    """A content header; one that cannot be decoded has the size of its body and nothing but UNREADABLE."""
    try:
        return decode_header(frame_data)
    except POISON as error:
        (size,) = struct.unpack(">Q", frame_data[4:12])
        why = f"its AMQP properties cannot be decoded: {error!r:.300}"
        return ContentHeader(body_size=size, properties=spec.Basic.Properties(headers={UNREADABLE: why}))


def method(frame_data: bytes) -> Frame:
    """A method; a Basic.Deliver that cannot be decoded has its tags, and UNREADABLE as routing key."""
    try:
        return decode_method(frame_data)
    except POISON:
        if frame_data[:4] != DELIVER:
            raise
        length = frame_data[4]
        (delivery_tag,) = struct.unpack(">Q", frame_data[5 + length : 13 + length])
        tag = frame_data[5 : 5 + length].decode()
        return spec.Basic.Deliver(consumer_tag=tag, delivery_tag=delivery_tag, routing_key=UNREADABLE)


def why_unreadable(method: spec.Basic.Deliver, properties: spec.Basic.Properties) -> str:
    """What of a delivery could not be decoded; empty if all is well."""
    if method.routing_key == UNREADABLE:
        return "its AMQP routing key is not UTF-8"
    return str((properties.headers or {}).get(UNREADABLE, ""))
