"""Message to AMQP properties and back; what a stranger put into them must not harm. No connection here."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from typing import Any

from aiormq import spec

from ..message import Message, new_id

ID, TIME, ATTEMPT, KEY = "mqasync-id", "mqasync-time", "mqasync-attempt", "mqasync-key"
MAX_ATTEMPT = 1_000_000
YEAR_3000 = 32_503_680_000.0  # no message was published after it
# We or RabbitMQ act on these or write them: they are neither sent nor believed as a message's own.
COPIES = ("CC", "BCC")
RESERVED = ("mqasync-", "x-death", "x-delivery-count", "x-first-death-", "x-last-death-", "x-opt-")


def to_properties(message: Message, message_id: str) -> spec.Basic.Properties:
    """Persistent properties for one publish of `message`; `message_id` must never have been used.

    aiormq confirms by message_id, so the id that stays the same travels in a header
    (../shared/FAULTS.md: 200 of 200 false confirmations otherwise).
    """
    headers: dict[str, Any] = {ID: message.id, TIME: repr(message.time)}  # pamqp would send a float as 32 bits
    if message.attempt != 1:
        headers[ATTEMPT] = message.attempt
    if message.key is not None:
        headers[KEY] = message.key
    if message.headers:
        headers |= _own(message.headers)
    return spec.Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        headers=headers,
        message_id=message_id,
        app_id=message.producer or None,
    )


def to_message(exchange: str, properties: spec.Basic.Properties, body: bytes) -> Message:
    """The message of a delivery, published by mqasync or by anyone else."""
    headers: dict[str, Any] = dict(properties.headers or {})
    published = headers.pop(TIME, None)
    attempt = headers.pop(ATTEMPT, 1)
    key = headers.pop(KEY, None)
    return Message(
        body=body,
        exchange=exchange,
        id=str(headers.pop(ID, None) or properties.message_id or new_id()),
        producer=str(properties.app_id or ""),
        time=_time(published, properties.timestamp),
        attempt=min(max(attempt, 1), MAX_ATTEMPT) if isinstance(attempt, int) else 1,
        headers=_own(headers) if headers else {},
        key=None if key is None else str(key),
    )


def returns(properties: spec.Basic.Properties) -> int:
    """How often a quorum queue saw this message come back unsettled."""
    count = (properties.headers or {}).get("x-delivery-count", 0)
    return count if isinstance(count, int) else 0


def _own(headers: dict[str, Any]) -> dict[str, str]:
    """The headers that are the message's own, as text."""
    return {
        str(name): str(value)
        for name, value in headers.items()
        if name not in COPIES and not str(name).startswith(RESERVED)
    }


def _time(published: Any, timestamp: datetime | None) -> float:
    """When it was published: by our header, else by the AMQP property, else now."""
    with suppress(TypeError, ValueError):
        seconds = float(published)
        if 0 < seconds < YEAR_3000:
            return seconds
    return timestamp.timestamp() if isinstance(timestamp, datetime) else time.time()
