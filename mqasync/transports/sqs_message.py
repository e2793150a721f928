"""Message to an entry of a batch request and back; what a stranger put into one must not harm. No connection here.

The body travels as the text that it is, for others to read, or as base64 where SQS does not take it as text;
everything else is JSON in one message attribute.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ..errors import MessageTooLarge
from ..message import Message, new_id

MAX_REQUEST = 262_144  # bytes in one request to SNS, and so in one message
MAX_BYTES = 140 * 1024  # as base64, and with all the headers that the core allows, it is less than MAX_REQUEST
BATCH = 10  # entries in one request
ATTRIBUTE = "mqasync"
MAX_ATTEMPT = 1_000_000
YEAR_3000 = 32_503_680_000.0  # no message was published after it
# SQS takes the characters of XML 1.0; \r is left out because XML readers change it, a leading space because
# SNS calls a message of spaces alone empty
TEXT = re.compile("(?=\\S)[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
GROUP = re.compile(r"[!-~]{1,128}")

Entry = dict[str, Any]


class Envelope(msgspec.Struct, omit_defaults=True):
    """What the attribute says; `body` is text, base64 or empty; `due` is when it may be received, since 1970."""

    id: str
    time: float = 0.0
    producer: str = ""
    attempt: int = 1
    key: str | None = None
    headers: dict[str, str] = {}
    body: str = "text"
    due: float = 0.0


class Packed(msgspec.Struct, frozen=True):
    """A message as it is sent."""

    body: str
    attribute: str
    group: str
    deduplication: str

    @property
    def size(self) -> int:
        """As AWS counts it."""
        return sum(len(text.encode()) for text in (self.body, self.attribute, ATTRIBUTE, "String"))

    def entry(self, body_field: str, fifo: bool) -> Entry:
        """For a batch request; SNS and SQS call the body differently."""
        attributes = {ATTRIBUTE: {"DataType": "String", "StringValue": self.attribute}}
        entry: Entry = {body_field: self.body, "MessageAttributes": attributes}
        if fifo:
            entry |= {"MessageGroupId": self.group, "MessageDeduplicationId": self.deduplication}
        return entry


def pack(message: Message, due: float = 0.0, deduplication: str | None = None) -> Packed:
    """`deduplication` is new for what must not be taken for a repetition; else it follows from the id."""
    kind, body = _to_text(message.body)
    envelope = Envelope(
        id=message.id,
        time=message.time,
        producer=message.producer,
        attempt=message.attempt,
        key=message.key,
        headers=message.headers,
        body=kind,
        due=due,
    )
    attribute = msgspec.json.encode(envelope).decode()
    return Packed(
        body=body,
        attribute=attribute.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff"),  # JSON takes them, SQS does not
        group=_group(message.id if message.key is None else message.key),
        deduplication=deduplication or hashlib.sha256(message.id.encode()).hexdigest(),
    )


def check_sizes(messages: Iterable[Packed], exchange: str) -> None:
    """Raise MessageTooLarge for what no request to SNS can carry."""
    for packed in messages:
        if packed.size > MAX_REQUEST:
            allowed = f"{MAX_REQUEST:,} are allowed with the headers"
            raise MessageTooLarge(f"a message of {packed.size:,} bytes for {exchange!r}; {allowed}")


def batches(messages: Iterable[Packed]) -> Iterator[list[Packed]]:
    """As many as one request takes, in order."""
    batch: list[Packed] = []
    size = 0
    for packed in messages:
        if batch and (len(batch) == BATCH or size + packed.size > MAX_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(packed)
        size += packed.size
    if batch:
        yield batch


def unpack(exchange: str, received: Mapping[str, Any]) -> tuple[Message, float, str]:
    """The message, when it is due, and why it cannot be read, as Delivery says it.

    What somebody else sent is taken as it is, its text attributes as headers.
    """
    system = received.get("Attributes", {})
    sent = int(system.get("SentTimestamp", 0)) / 1000 or time.time()
    attributes = received.get("MessageAttributes", {})
    text: str = received.get("Body", "")
    own = attributes.get(ATTRIBUTE, {}).get("StringValue")
    message = Message(
        body=text.encode("utf-8", "replace"),
        exchange=exchange,
        id=received.get("MessageId") or new_id(),
        time=sent,
        headers={name: value["StringValue"] for name, value in attributes.items() if "StringValue" in value},
        key=system.get("MessageGroupId"),
    )
    if own is None:
        return message, 0.0, ""
    try:
        envelope = msgspec.json.decode(own, type=Envelope)
        body = _from_text(envelope.body, text)
    except ValueError as error:  # msgspec's and base64's are such
        return message, 0.0, f"its attribute {ATTRIBUTE!r} cannot be understood: {error}"
    message = Message(
        body=body,
        exchange=exchange,
        id=envelope.id,
        producer=envelope.producer,
        time=envelope.time if 0 < envelope.time < YEAR_3000 else sent,
        attempt=min(max(envelope.attempt, 1), MAX_ATTEMPT),
        headers=envelope.headers,
        key=envelope.key,
    )
    return message, envelope.due, ""


def _to_text(body: bytes) -> tuple[str, str]:
    if not body:
        return "empty", "-"  # SQS takes no empty body
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    return ("text", text) if TEXT.fullmatch(text) else ("base64", base64.b64encode(body).decode())


def _from_text(kind: str, text: str) -> bytes:
    if kind == "text":
        return text.encode()
    if kind == "base64":
        return base64.b64decode(text, validate=True)
    if kind == "empty":
        return b""
    raise ValueError(f"body is {kind!r}; text, base64 and empty are known")


def _group(key: str) -> str:
    """The key itself where SQS takes it as the name of a message group, else a hash."""
    return key if GROUP.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()
