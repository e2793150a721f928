"""Envelopes: what is sent with a message's body, in three forms, and how it is read back; no broker's code.

Text headers where the broker has them, ASCII headers where it has only these, and one packed text for the rest.
Reading raises nothing: a foreign message is a message with its own headers, and forged values are clamped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from ...message import HIGHEST, Message, new_id

ID, TIME, ATTEMPT = "mqasync-id", "mqasync-time", "mqasync-attempt"
KEY, PRODUCER, PRIORITY = "mqasync-key", "mqasync-producer", "mqasync-priority"
DUE = "mqasync-due"  # seconds since 1970 before which a message is not handled, where its broker cannot delay it
PACKED = "mqasync-packed"  # headers that cannot be sent as they are, as JSON in ASCII
BEFORE = "mqasync-before"  # so many bytes before the body are all the headers, in MessagePack
OURS = frozenset((ID, TIME, ATTEMPT, KEY, PRODUCER, PRIORITY, PACKED, BEFORE))
NAME = re.compile(r"(?!nats-|status$|description$)[!#$%&'*+\-.^_`|~0-9a-z]+", re.IGNORECASE)  # nats- commands NATS
NOTHING = re.compile("(?!)")
TEXT = re.compile(r"[!-~](?:[ -~]*[!-~])?")  # client libraries trim spaces and drop empty ones
MAX_ATTEMPT = 1_000_000
YEAR_3000 = 32_503_680_000.0  # no message was published after it


def to_headers(message: Message) -> dict[str, str]:
    """All of `message` but body and exchange, as text headers; its own headers cannot replace ours."""
    own = {ID: message.id, TIME: repr(message.time)}
    headers = {name: text for name, text in message.headers.items() if name not in OURS} | own
    if message.attempt != 1:
        headers[ATTEMPT] = str(message.attempt)
    if message.key is not None:
        headers[KEY] = message.key
    if message.producer:
        headers[PRODUCER] = message.producer
    if message.priority:
        headers[PRIORITY] = str(message.priority)
    return headers


def from_headers(
    exchange: str, body: bytes, headers: Mapping[str, str], id: str = "", time: float = 0.0, key: str | None = None
) -> Message:
    """The message. `id`, `time` and `key` are what the broker says of a foreign message."""
    return Message(
        body=body,
        exchange=exchange,
        id=headers.get(ID) or id or new_id(),
        producer=headers.get(PRODUCER, ""),
        time=to_time(headers.get(TIME), time),
        attempt=_number(headers.get(ATTEMPT), 1, MAX_ATTEMPT),
        headers={} if headers.keys() <= OURS else {name: headers[name] for name in headers if name not in OURS},
        key=headers.get(KEY, key),
        priority=_number(headers.get(PRIORITY), 0, HIGHEST),
    )


def to_ascii(message: Message, most: int, reserved: re.Pattern[str] = NOTHING) -> tuple[dict[str, str], bytes]:
    """Headers and body for a broker whose headers are plain ASCII, of at most `most` bytes.

    Other headers, and those that the broker acts on, are packed into one; larger ones are put before the body.
    """
    headers = to_headers(message)
    plain = {name: text for name, text in headers.items() if NAME.fullmatch(name) and TEXT.fullmatch(text)}
    plain = {name: text for name, text in plain.items() if not reserved.fullmatch(name)}
    if len(plain) < len(headers):
        plain[PACKED] = json.dumps({name: text for name, text in headers.items() if name not in plain})
    if sum(map(len, plain)) + sum(map(len, plain.values())) <= most:
        return plain, message.body
    before = msgspec.msgpack.encode(headers)
    return {BEFORE: str(len(before))}, before + message.body


def from_ascii(exchange: str, headers: Mapping[str, str], body: bytes, id: str = "", time: float = 0.0) -> Message:
    """The message, as by from_headers: what `to_ascii` was given, or a foreign message as it is."""
    found = dict(headers)
    with suppress(ValueError):  # of which msgspec.DecodeError is one
        if PACKED in found:
            found |= msgspec.json.decode(found[PACKED], type=dict[str, str])
        if BEFORE in found:
            length = int(found[BEFORE])
            found |= msgspec.msgpack.decode(body[:length], type=dict[str, str])
            body = body[length:]
    return from_headers(exchange, body, found, id, time)


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All of a message but its body and exchange."""

    id: str
    time: float
    attempt: int = 1
    producer: str = ""
    key: str | None = None
    headers: dict[str, str] = {}
    priority: int = 0


ENCODE = msgspec.json.Encoder().encode
DECODE = msgspec.json.Decoder(Envelope).decode


def pack(message: Message) -> bytes:
    """All of `message` but its body and exchange, as JSON in UTF-8."""
    own = message.id, message.time, message.attempt, message.producer, message.key, message.headers, message.priority
    return ENCODE(Envelope(*own))


def unpack(
    exchange: str, envelope: bytes | str | None, body: bytes, id: str = "", time: float = 0.0
) -> tuple[Message, str]:
    """The message, and why it cannot be read, if so (Delivery.unreadable).

    Without an envelope it is a foreign message: its body, with `id` and `time` of the broker.
    """
    problem = ""
    if envelope is not None:
        try:
            own = DECODE(envelope)
            attempt = min(max(own.attempt, 1), MAX_ATTEMPT)
            return Message(
                body=body,
                exchange=exchange,
                id=own.id,
                producer=own.producer,
                time=own.time if 0 < own.time < YEAR_3000 else to_time(None, time),
                attempt=attempt,
                headers=own.headers,
                key=own.key,
                priority=min(max(own.priority, 0), HIGHEST),
            ), ""
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            problem = f"its envelope cannot be read: {error}"
    return Message(body=body, exchange=exchange, id=id or new_id(), time=to_time(None, time)), problem


def _number(text: str | None, least: int, most: int) -> int:
    return min(max(int(text), least), most) if text and re.fullmatch("[0-9]{1,9}", text) else least


def to_time(text: str | None, otherwise: float = 0.0) -> float:
    """The time that a header names, if it is valid; else that of the broker, or now."""
    try:
        seconds = float(text or 0.0)
    except ValueError:
        seconds = 0.0
    return seconds if 0 < seconds < YEAR_3000 else otherwise or time.time()
