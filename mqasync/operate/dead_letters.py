"""Dead letters looked at: which of them are meant, and each as data for a file; none is made here."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from ..brokers.broker import Broker
from ..core.dead_letter import buried_at, revived
from ..errors import ConfigurationError
from ..handlers.codec import not_json
from ..message import Message
from ..transport import Delivery
from .browse import Reading, all_of

NAMED = 5  # ids that an error names
ENVELOPE = ("id", "exchange", "producer", "time", "attempt", "key", "headers")


class Choice(msgspec.Struct, kw_only=True):
    """Which dead letters are meant: those that fit everything given, `limit` of them at most.

    `reason`: in what the error is called. `older`, `newer`: buried longer ago than so many seconds, or less long.
    `text`: in body, id or what the error said. `message`: the id, or how the id begins. `ids`: only these.
    """

    reason: str = ""
    older: float | None = None
    newer: float | None = None
    text: str = ""
    message: str = ""
    ids: set[str] | None = None
    limit: int | None = None

    @property
    def everything(self) -> bool:
        """True where nothing is left out but what is beyond `limit`."""
        return msgspec.structs.replace(self, limit=None) == Choice()

    def fits(self, message: Message) -> bool:
        """Whether `message` is meant. Case does not matter."""
        age = time.time() - buried_at(message)
        kind = " ".join(message.headers.get(name, "") for name in ("dead-reason", "dead-exception"))
        said = f"{message.id}\n{message.headers.get('dead-message', '')}\n{message.body.decode(errors='replace')}"
        return (
            self.reason.casefold() in kind.casefold()
            and (self.older is None or age > self.older)
            and (self.newer is None or age < self.newer)
            and self.text.casefold() in said.casefold()
            and message.id.startswith(self.message)
            and (self.ids is None or message.id in self.ids)
        )

    def reading_limit(self) -> int | None:
        """How many have to be looked at, at most; None for all."""
        return self.limit if self.everything else None


async def chosen(reading: Reading, choice: Choice) -> AsyncIterator[list[Delivery]]:
    """The letters that are meant, a few at a time. Raises ConfigurationError unless `message` means exactly one id."""
    left = choice.limit
    async for found in one(reading, choice) if choice.message else reading.portions(choice.fits):
        if found:
            yield found[:left]
        if left is not None:
            left -= len(found[:left])
            if not left:
                return


async def one(reading: Reading, choice: Choice) -> AsyncIterator[list[Delivery]]:
    """The letter that `message` means, all copies of it; it is known only when all letters were looked at."""
    found = await all_of(reading.portions(choice.fits))
    found = [delivery for delivery in found if delivery.message.id == choice.message] or found
    ids = sorted({delivery.message.id for delivery in found})
    if not ids:
        raise ConfigurationError(f"no dead letter that fits has an id that begins with {choice.message!r}")
    if len(ids) > 1:
        some = ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
        raise ConfigurationError(f"{choice.message!r} is how {len(ids):,} ids begin: {some}")
    yield found


async def replayed(broker: Broker, exchange: str, id: str, reading: Reading, found: Sequence[Delivery]) -> None:
    """Put the letters back into the queue (exchange, id) as first attempts; they are gone once they are safe there."""
    messages = [revived(delivery.message) for delivery in found]
    await broker.call(lambda transport: transport.send(exchange, id, messages))
    await reading.take(found)


class Record(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A message as a line of JSON: its body as JSON, or in base64 where it is none."""

    id: str
    exchange: str = ""
    producer: str = ""
    time: float = 0.0
    attempt: int = 1
    key: str | None = None
    headers: dict[str, str] = {}
    body: msgspec.Raw = msgspec.Raw()
    base64: bytes | None = None


def to_record(message: Message) -> dict[str, Any]:
    """All of `message`, to be encoded as JSON."""
    if not_json(message.body):
        body: dict[str, Any] = {"base64": message.body}
    else:
        body = {"body": msgspec.Raw(msgspec.json.format(message.body, indent=-1))}
    return {name: getattr(message, name) for name in ENVELOPE} | body


def from_record(line: bytes) -> Message:
    """The message of a line that `to_record` gave. Raises ConfigurationError for any other."""
    try:
        record = msgspec.json.decode(line, type=Record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"this is not what `dead export` writes: {error}") from error
    if record.base64 is None and not record.body:
        raise ConfigurationError("this is not what `dead export` writes: it has neither `body` nor `base64`")
    return Message(
        body=bytes(record.body) if record.base64 is None else record.base64,
        exchange=record.exchange,
        id=record.id,
        producer=record.producer,
        time=record.time or time.time(),
        attempt=record.attempt,
        key=record.key,
        headers=record.headers,
    )
