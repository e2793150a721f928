"""Message and Out, the frozen data that travels; nothing here knows a broker or a handler."""

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
    """A message id that nobody has used: a random UUID (RFC 9562, version 4), in half the time of uuid.uuid4()."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def output_id(*parts: object) -> str:
    """The id of an output: the same parts always give the same id, so a repeated message is recognised."""
    return str(uuid.uuid5(NAMESPACE, "/".join(map(str, parts))))


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message as brokers carry it, its body still bytes.

    `id` stays the same through retries and re-publishing: recognise duplicates by it.
    `producer` is the id of the producer or consumer that put it out. `time` is when it was
    first published, in seconds since 1970 (UTC). `attempt` is 1 the first time it is handled.
    `headers` are text by text. `key` says which messages belong together (a partition key).
    `returned` is how often it came back without being settled, its process dead or its connection lost, where
    the broker counts that. `priority`, 0 to 9: what is higher is received before what waits, where the broker can.
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
"""What names a thing already: it travels as text."""


class Out(msgspec.Struct, frozen=True):
    """What a handler or producer returns or yields when the body alone does not say enough.

    `exchange` overrides the decorator's; `id` replaces the derived id, for data that has a
    natural key (a line of a file, a record number), so that reading it again repeats the ids.
    `id` and `key` become text; `headers` are text by text; `priority` (see Message) is that of what was handled,
    where nothing is said. Anything else is a ConfigurationError where it is put out, as an Out inside another is.
    """

    body: Any
    exchange: str | None = None
    key: NaturalKey | None = None
    headers: dict[str, str] = {}
    id: NaturalKey | None = None
    priority: int | None = None
