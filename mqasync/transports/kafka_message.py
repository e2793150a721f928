"""Message to what Kafka's records carry and back; what a stranger put into them must not harm. No connection here."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ..message import Message

ID, PRODUCER, TIME = "mqasync-id", "mqasync-producer", "mqasync-time"
ATTEMPT, DUE = "mqasync-attempt", "mqasync-due"
RESERVED = "mqasync-"
MAX_ATTEMPT = 1_000_000
YEAR_3000 = 32_503_680_000.0  # no message was published after it

Headers = list[tuple[str, bytes]]


def to_headers(message: Message, due: float) -> Headers:
    """Everything but body and key; `due` is 0 for a message that is not delayed."""
    headers = [(ID, message.id.encode()), (TIME, repr(message.time).encode())]
    if message.producer:
        headers.append((PRODUCER, message.producer.encode()))
    if message.attempt != 1:
        headers.append((ATTEMPT, b"%d" % message.attempt))
    if due:
        headers.append((DUE, repr(due).encode()))
    for name, value in message.headers.items():
        if not name.startswith(RESERVED):
            headers.append((name, value.encode()))
    return headers


def to_message(exchange: str, record: Any) -> tuple[Message, float]:
    """The message of a record, written by mqasync or by anyone else, and when it is due (0: at once)."""
    given = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    attempt = given.get(ATTEMPT, "1")
    message = Message(
        body=record.value or b"",
        exchange=exchange,
        # a stranger's message has no id, and gets the same one each time that it is read
        id=given.get(ID) or f"{record.topic}/{record.partition}/{record.offset}",
        producer=given.get(PRODUCER, ""),
        time=_seconds(given.get(TIME), max(record.timestamp, 0) / 1000),
        attempt=min(max(int(attempt), 1), MAX_ATTEMPT) if attempt.isdecimal() and len(attempt) < 20 else 1,
        headers={name: value for name, value in given.items() if not name.startswith(RESERVED)},
        key=None if record.key is None else record.key.decode(errors="replace"),
    )
    return message, _seconds(given.get(DUE), 0.0)


def _seconds(given: str | None, otherwise: float) -> float:
    if not given:
        return otherwise  # most often: an exception would cost more than all the rest
    with suppress(ValueError):
        seconds = float(given)
        if 0 < seconds < YEAR_3000:
            return seconds
    return otherwise
