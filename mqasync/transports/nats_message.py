"""Message to NATS headers and back; what a stranger put into them must not harm. No connection here."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from contextlib import suppress

import msgspec
from nats.aio.msg import Msg

from ..message import Message, output_id

ID, TIME, ATTEMPT, KEY, PRODUCER = "mqasync-id", "mqasync-time", "mqasync-attempt", "mqasync-key", "mqasync-producer"
DUE = "mqasync-due"  # seconds since 1970 before which nobody is to handle it
PACKED = "mqasync-packed"  # the headers that NATS cannot carry as they are: MessagePack in base64
PREFIX = "mqasync-prefix"  # the same before the body, which is so many bytes long
MAX_HEADER_BYTES = 48 * 1024  # JetStream takes 64 KiB
MAX_ATTEMPT = 1_000_000
YEAR_3000 = 32_503_680_000.0  # no message was published after it
OURS = "mqasync-"
NAMES = re.compile(
    r"(?!nats-|status$|description$)[!#$%&'*+\-.^_`|~0-9a-z]+", re.IGNORECASE
)  # nats- commands JetStream
TEXTS = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")  # nats-py trims spaces and replaces ends of lines
# at most this much of a message are its headers: 64 KiB of its own (publisher.py), those of a dead letter, and what
# MessagePack puts between them
RESERVED_BYTES = 128 * 1024


def to_nats(message: Message, due: float | None = None) -> tuple[bytes, dict[str, str]]:
    """Payload and headers for one publish of `message`, not to be handled before `due`."""
    headers = {name: text for name, text in message.headers.items() if not name.startswith(OURS)}
    headers |= {ID: message.id, TIME: repr(message.time)}
    if message.attempt != 1:
        headers[ATTEMPT] = str(message.attempt)
    if message.key is not None:
        headers[KEY] = message.key
    if message.producer:
        headers[PRODUCER] = message.producer
    packed = {name: text for name, text in headers.items() if not (_nameable(name) and TEXTS.fullmatch(text))}
    native = {name: text for name, text in headers.items() if name not in packed}
    if due is not None:
        native[DUE] = repr(due)
    if packed:
        native[PACKED] = base64.b64encode(msgspec.msgpack.encode(packed)).decode()
    if size(native) <= MAX_HEADER_BYTES:
        return message.body, native
    prefix = msgspec.msgpack.encode(headers)
    native = {PREFIX: str(len(prefix))} | ({DUE: native[DUE]} if DUE in native else {})
    return prefix + message.body, native


def _nameable(name: str) -> bool:
    """Whether NATS can carry a header of that name."""
    return name.startswith(OURS) or NAMES.fullmatch(name) is not None


def size(headers: Mapping[str, str]) -> int:
    """How many bytes they are on the wire."""
    return sum(len(name) + len(text) + 4 for name, text in headers.items()) + 12


def to_message(exchange: str, delivery: Msg) -> Message:
    """The message of a delivery, published by mqasync or by anyone else."""
    headers, body, stored = delivery.headers or {}, delivery.data, delivery.metadata
    given = {str(name): str(text) for name, text in headers.items() if NAMES.fullmatch(str(name))}
    with suppress(ValueError, msgspec.MsgspecError):
        if PACKED in given:
            given |= _unpacked(base64.b64decode(given[PACKED], validate=True))
        if PREFIX in given:
            length = int(given[PREFIX])
            given |= _unpacked(body[:length])
            body = body[length:]
    attempt = given.get(ATTEMPT, "")
    return Message(
        body=body,
        exchange=exchange,
        id=given.get(ID)
        or headers.get("Nats-Msg-Id")
        or output_id(stored.stream, stored.sequence.stream, stored.timestamp),
        producer=given.get(PRODUCER, ""),
        time=_seconds(given.get(TIME)) or stored.timestamp.timestamp(),
        attempt=min(max(int(attempt), 1), MAX_ATTEMPT) if re.fullmatch("[0-9]{1,9}", attempt) else 1,
        headers={name: text for name, text in given.items() if not name.startswith(OURS)},
        key=given.get(KEY),
    )


def _unpacked(data: bytes) -> dict[str, str]:
    return msgspec.msgpack.decode(data, type=dict[str, str])


def due(headers: Mapping[str, str] | None) -> float:
    """Before when nobody is to handle it; 0 for at once."""
    return _seconds((headers or {}).get(DUE)) or 0.0


def _seconds(text: str | None) -> float | None:
    """A point of time that a header names, if it is one."""
    if not text:
        return None  # most often: an exception would cost more than all the rest
    with suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < YEAR_3000:
            return seconds
    return None
