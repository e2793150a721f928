"""Message to NATS headers and back; what a stranger put into them must not harm. No connection here."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from ..message import Message, new_id

ID, TIME, ATTEMPT, KEY, PRODUCER = "mqasync-id", "mqasync-time", "mqasync-attempt", "mqasync-key", "mqasync-producer"
DUE = "mqasync-due"  # seconds since 1970 before which nobody is to handle it
PACKED = "mqasync-packed"  # the headers that NATS cannot carry as they are: MessagePack in base64
MAX_ATTEMPT = 1_000_000
YEAR_3000 = 32_503_680_000.0  # no message was published after it
OURS = "mqasync-"
NAMES = re.compile(
    r"(?!nats-|status$|description$)[!#$%&'*+\-.^_`|~0-9a-z]+", re.IGNORECASE
)  # nats- commands JetStream
TEXTS = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")  # nats-py trims spaces and replaces ends of lines
# at most this much of a message are its headers and its subject: 64 KiB of its own (publisher.py) and those of
# a dead letter, both in base64
RESERVED_BYTES = 112 * 1024


def to_headers(message: Message, due: float | None = None) -> dict[str, str]:
    """The headers of one publish of `message`, not to be handled before `due`."""
    headers = {name: text for name, text in message.headers.items() if not name.startswith(OURS)}
    headers |= {ID: message.id, TIME: repr(message.time)}
    if message.attempt != 1:
        headers[ATTEMPT] = str(message.attempt)
    if message.key is not None:
        headers[KEY] = message.key
    if message.producer:
        headers[PRODUCER] = message.producer
    if due is not None:
        headers[DUE] = repr(due)
    packed = {name: text for name, text in headers.items() if not (NAMES.fullmatch(name) and TEXTS.fullmatch(text))}
    if packed:
        headers = {name: text for name, text in headers.items() if name not in packed}
        headers[PACKED] = base64.b64encode(msgspec.msgpack.encode(packed)).decode()
    return headers


def to_message(exchange: str, headers: Mapping[str, str] | None, body: bytes) -> Message:
    """The message of a delivery, published by mqasync or by anyone else."""
    given = {str(name): str(text) for name, text in (headers or {}).items() if NAMES.fullmatch(str(name))}
    with suppress(ValueError, msgspec.MsgspecError):
        packed = base64.b64decode(given.pop(PACKED, ""), validate=True)
        given |= msgspec.msgpack.decode(packed, type=dict[str, str]) if packed else {}
    attempt = given.get(ATTEMPT, "")
    return Message(
        body=body,
        exchange=exchange,
        id=given.get(ID) or new_id(),
        producer=given.get(PRODUCER, ""),
        time=_seconds(given.get(TIME)) or time.time(),
        attempt=min(max(int(attempt), 1), MAX_ATTEMPT) if re.fullmatch("[0-9]{1,9}", attempt) else 1,
        headers={name: text for name, text in given.items() if not name.startswith(OURS)},
        key=given.get(KEY),
    )


def due(headers: Mapping[str, str] | None) -> float:
    """Before when nobody is to handle it; 0 for at once."""
    return _seconds((headers or {}).get(DUE)) or 0.0


def _seconds(text: str | None) -> float | None:
    """A point of time that a header names, if it is one."""
    with suppress(TypeError, ValueError):
        seconds = float(text or "")
        if 0 < seconds < YEAR_3000:
            return seconds
    return None
