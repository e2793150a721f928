"""Message to STOMP headers and back; what a stranger put into them must not harm. No connection here."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from ..message import Message, new_id
from .activemq_frames import Frame

OURS = "mqasync"  # the beginning of our headers' names: neither sent nor believed as a message's own
ID, TIME, ATTEMPT, KEY, PRODUCER = (f"{OURS}-{name}" for name in ("id", "time", "attempt", "key", "producer"))
DUE = f"{OURS}-due"  # seconds since 1970 before which a delayed message must not be handled
MARKER = f"{OURS}_marker"  # a message that only makes a queue exist; a selector cannot name it with a hyphen
REST = f"{OURS}-rest-"  # and a number: what cannot be a header, as JSON in base64, in parts
MAX_ATTEMPT = 1_000_000
YEAR_3000 = 32_503_680_000.0  # no message was published after it
MAX_PLAIN = 2_000  # characters; ActiveMQ takes 10 KB a header line
MAX_HEADERS = 300  # ActiveMQ takes 1,000
PART = 8_000
# ActiveMQ acts on these or writes them
STOMP = re.compile(
    r"ack|amq-msg-type|browser|content-(length|type)|correlation-id|destination|expires|id|message-id"
    r"|original-destination|persistent|priority|receipt|redelivered|reply-to|selector|subscription|timestamp"
    r"|transaction|transformation(-error)?|type|(JMS|AMQ_).*",
    re.DOTALL,
)


def to_headers(message: Message) -> dict[str, str]:
    """Headers for a SEND of `message`.

    What ActiveMQ can carry as a header is one, so that other consumers read it as a property and can
    select by it; what is long, not printable or has a name that means something to STOMP goes into REST.
    """
    fields = {ID: message.id, TIME: repr(message.time)}
    if message.attempt != 1:
        fields[ATTEMPT] = str(message.attempt)
    if message.producer:
        fields[PRODUCER] = message.producer
    if message.key is not None:
        fields[KEY] = message.key
    fields |= {name: value for name, value in message.headers.items() if not name.startswith(OURS)}
    plain = {name: value for name, value in fields.items() if _plain(name, value)}
    if len(plain) > MAX_HEADERS:
        plain = {}
    rest = {name: value for name, value in fields.items() if name not in plain}
    if rest:
        packed = base64.b64encode(msgspec.json.encode(rest)).decode()
        for number, start in enumerate(range(0, len(packed), PART)):
            plain[f"{REST}{number}"] = packed[start : start + PART]
    plain["persistent"] = "true"
    return plain


def to_message(exchange: str, frame: Frame) -> tuple[Message, str]:
    """The message of a MESSAGE frame, published by mqasync or by anyone else, and why it cannot be read."""
    headers = frame.headers
    unreadable = ""
    rest: dict[str, str] = {}
    if f"{REST}0" in headers:
        try:
            rest = _rest(headers)
        except (ValueError, msgspec.DecodeError) as error:
            unreadable = f"its header {REST}0 and those that follow are damaged: {error}"
    own = {name: value for name, value in headers.items() if not name.startswith(OURS) and not STOMP.fullmatch(name)}
    own |= {name: value for name, value in rest.items() if not name.startswith(OURS)}
    fields = {name: value for name, value in {**headers, **rest}.items() if name.startswith(OURS)}
    message = Message(
        body=frame.body,
        exchange=exchange,
        id=fields.get(ID) or headers.get("message-id") or new_id(),
        producer=fields.get(PRODUCER, ""),
        time=_time(fields.get(TIME), headers.get("timestamp")),
        attempt=_attempt(fields.get(ATTEMPT)),
        headers=own,
        key=fields.get(KEY),
    )
    return message, unreadable


def due(frame: Frame) -> float:
    """When a delayed message may be handled; at once if that cannot be read."""
    with suppress(KeyError, ValueError):
        return float(frame.headers[DUE])
    return 0.0


def _plain(name: str, value: str) -> bool:
    """True if ActiveMQ carries this header as it is and does not act on it."""
    if not name or len(name) + len(value) > MAX_PLAIN or STOMP.fullmatch(name):
        return False
    return name.isprintable() and value.isprintable()


def _rest(headers: Mapping[str, str]) -> dict[str, str]:
    """Raises ValueError or msgspec.DecodeError for what we did not write."""
    parts: list[str] = []
    while (part := headers.get(f"{REST}{len(parts)}")) is not None:
        parts.append(part)
    return msgspec.json.decode(base64.b64decode("".join(parts), validate=True), type=dict[str, str])


def _time(published: str | None, timestamp: str | None) -> float:
    """When it was published: by our header, else by the broker's clock, else now."""
    for text, unit in ((published, 1.0), (timestamp, 1000.0)):
        with suppress(TypeError, ValueError):
            seconds = float(text or "") / unit
            if 0 < seconds < YEAR_3000:
                return seconds
    return time.time()


def _attempt(text: str | None) -> int:
    return min(max(int(text), 1), MAX_ATTEMPT) if text and text.isascii() and text.isdecimal() else 1
