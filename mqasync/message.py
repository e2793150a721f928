"""Message and Out, the immutable data that is published and handled; nothing here knows a broker or a handler."""

from __future__ import annotations

import os
import time
import uuid
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgspec

# Fixed for ever: the ids of outputs are derived from it (RFC 9562, version 5).
NAMESPACE = uuid.UUID("6f1c0c5a-93b5-4f0e-8f5b-6d7161737963")


def new_id() -> str:
    """A new, unique message id: a random UUID (RFC 9562, version 4), in half the time of uuid.uuid4()."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def output_id(*parts: object) -> str:
    """The id of an output: the same parts always give the same id, so that duplicates are recognised."""
    return str(uuid.uuid5(NAMESPACE, "/".join(map(str, parts))))


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message as brokers carry it, its body still bytes.

    `id` stays the same when the message is retried or published again: recognise duplicates by it.
    `producer` is the id of the producer or consumer that published it. `time` is when it was
    first published, in seconds since 1970 (UTC). `attempt` is 1 the first time it is handled.
    `headers` map text to text. `key` says which messages belong together (a partition key).
    `returned` is the delivery count: how often it was redelivered because its process died or its connection was
    lost before it was acknowledged, where the broker counts that. `priority`, 0 to 9: messages with a higher one
    are received first, where the broker has priorities.
    """

    body: bytes
    exchange: str
    id: str = msgspec.field(default_factory=new_id)
    producer: str = ""
    time: float = msgspec.field(default_factory=time.time)
    attempt: int = 1
    headers: dict[str, str] = {}
    key: str | None = None
    returned: int = 0
    priority: int = 0


HIGHEST = 9  # priority

NaturalKey = str | uuid.UUID | IPv4Address | IPv6Address
"""A name that something already has, such as an IP address. It is published as text."""


class Out(msgspec.Struct, frozen=True):
    """What a handler or producer returns or yields when a message needs more than a body.

    `exchange` overrides that of the decorator; `id` replaces the derived id, for data that has a
    natural key (a line of a file, a record number): reading it again then gives the same ids.
    `id` and `key` become text; `headers` map text to text; `priority` (see Message) is by default that of the
    handled message. Anything else raises ConfigurationError when it is published, and so does an Out inside an Out.
    """

    body: Any
    exchange: str | None = None
    key: NaturalKey | None = None
    headers: dict[str, str] = {}
    id: NaturalKey | None = None
    priority: int | None = None
