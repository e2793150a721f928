"""What is in a queue now, dead letters too: read, chosen, requeued or taken, as data; nothing is printed."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Self, TypeVar

import msgspec

from ..brokers.broker import Broker
from ..brokers.queues import stats
from ..core.dead_letter import dead_lettered_at, explained, revived
from ..errors import ConfigurationError
from ..handlers.codec import not_json
from ..message import Message
from ..transport import DEAD, Delivery

HELD = 60_000  # deliveries that are held at most: they are kept in memory, and RabbitMQ counts to 65,535
HELD_BYTES = 256 * 1024 * 1024  # about what their bodies may take
FEW = 1000  # deliveries that are held at most where each is taken as it comes
PORTION = 100  # deliveries that are received, or settled, at a time
PATIENCE_SECONDS = 5.0  # how long to wait for the next one of those the broker has counted

NAMED = 5  # ids that an error names
ENVELOPE = ("id", "exchange", "producer", "time", "attempt", "key", "headers")

T = TypeVar("T")


class Reading:
    """`async with Reading(broker, exchange, id) as reading`: what is taken in the block is gone, the rest is requeued.

    It ends after as many as the broker counted at its beginning, so that what is requeued meanwhile is not met twice,
    and looks at no more than `limit`, holding no more than `held`. Other consumers of the queue do not get what is
    held, nor does this get what they hold. Raises BrokerLost: then everything that was not taken is redelivered.
    """

    def __init__(self, broker: Broker, exchange: str, id: str, limit: int | None = None, held: int = HELD) -> None:
        self.there = 0  # messages that waited at the beginning
        self.most = 0  # of them are looked at
        self.seen = 0
        self._broker, self._exchange, self._id = broker, exchange, id
        self._limit, self._most_held = limit, held
        self._bytes = 0  # of their bodies

    async def __aenter__(self) -> Self:
        found = await stats(self._broker, self._exchange, self._id)
        self.there = found.waiting if found else 0
        self.most = self.there if self._limit is None else min(self.there, self._limit)
        if self.most:
            transport = await self._broker.connected()
            self._inbox = await transport.subscribe(self._exchange, self._id, min(self.most, self._most_held))
            self._keeper = asyncio.create_task(self._inbox.keep())
        return self

    async def portions(self, wanted: Callable[[Message], bool] = lambda message: True) -> AsyncIterator[list[Delivery]]:
        """Those that are `wanted`, a few at a time, oldest first where the broker keeps an order."""
        while self.seen < self.most and not self.full:
            room = min(PORTION, self.most - self.seen, self._inbox.room)
            deliveries = await self._inbox.receive(room, PATIENCE_SECONDS)
            if not deliveries:
                return
            self.seen += len(deliveries)
            if self._id.endswith(DEAD):
                for delivery in deliveries:
                    delivery.message = explained(delivery.message)
            self._bytes += sum(len(delivery.message.body) for delivery in deliveries)
            yield [delivery for delivery in deliveries if wanted(delivery.message)]

    @property
    def full(self) -> bool:
        """True when no more can be held."""
        return len(self._inbox.held) >= self._most_held or self._bytes >= HELD_BYTES

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge them: they are gone for good."""
        await self._inbox.ack(deliveries)
        self._bytes -= sum(len(delivery.message.body) for delivery in deliveries)

    async def __aexit__(self, *error: object) -> None:
        if self.most:
            self._keeper.cancel()
            await self._inbox.give_up()


async def all_of(found: AsyncIterator[Iterable[T]]) -> list[T]:
    """The portions put together."""
    return [one async for some in found for one in some]


class Choice(msgspec.Struct, kw_only=True):
    """Which messages, mostly dead letters, are meant: those that fit everything given, at most `limit`.

    `reason`: in what the error is called. `older`, `newer`: dead-lettered more or less than so many seconds ago.
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
        age = time.time() - dead_lettered_at(message)
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


def reading_of(broker: Broker, exchange: str, id: str, choice: Choice, keep: bool = True) -> Reading:
    """As much of a queue as `choice` needs; little is held where all is taken as it comes, not to `keep`."""
    held = HELD if keep or not choice.everything else FEW
    return Reading(broker, exchange, id, choice.limit if choice.everything else None, held)


async def chosen(reading: Reading, choice: Choice) -> AsyncIterator[list[Delivery]]:
    """The messages that are meant, a few at a time. Raises ConfigurationError unless `message` means exactly one id."""
    left = choice.limit
    async for found in one(reading, choice) if choice.message else reading.portions(choice.fits):
        if found:
            yield found[:left]
        if left is not None:
            left -= len(found[:left])
            if not left:
                return


async def one(reading: Reading, choice: Choice) -> AsyncIterator[list[Delivery]]:
    """The message that `message` means, all copies of it; it is known only when all were looked at."""
    found = await all_of(reading.portions(choice.fits))
    found = [delivery for delivery in found if delivery.message.id == choice.message] or found
    ids = sorted({delivery.message.id for delivery in found})
    if not ids:
        raise ConfigurationError(f"no matching dead letter has an id that begins with {choice.message!r}")
    if len(ids) > 1:
        some = ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
        raise ConfigurationError(f"{len(ids):,} ids begin with {choice.message!r}: {some}")
    yield found


async def replayed(broker: Broker, exchange: str, id: str, reading: Reading, found: list[Delivery]) -> None:
    """Move dead letters back to the queue (exchange, id) as first attempts; acknowledged once the broker has them."""
    messages = [revived(delivery.message) for delivery in found]
    await broker.call(lambda transport: transport.send(exchange, id, messages))
    await reading.take(found)


class Record(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A message as a line of JSON: its body as JSON, or in base64 where it is none."""

    id: str
    exchange: str = ""
    producer: str = ""
    time: float = msgspec.field(default_factory=time.time)
    attempt: int = 1
    key: str | None = None
    headers: dict[str, str] = {}
    priority: int = 0
    body: msgspec.Raw = msgspec.Raw()
    base64: bytes | None = None


def to_record(message: Message) -> dict[str, Any]:
    """All of `message`, to be encoded as JSON."""
    if not_json(message.body):
        body: dict[str, Any] = {"base64": message.body}
    else:
        body = {"body": msgspec.Raw(msgspec.json.format(message.body, indent=-1))}
    own = {name: getattr(message, name) for name in ENVELOPE}
    return own | ({"priority": message.priority} if message.priority else {}) | body


def from_record(line: bytes) -> Message:
    """The message of a line that `to_record` gave. Raises ConfigurationError for any other."""
    try:
        record = msgspec.json.decode(line, type=Record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"this is not a line of `mqasync dead export`: {error}") from error
    if record.base64 is None and not record.body:
        raise ConfigurationError("this is not a line of `mqasync dead export`: it has neither `body` nor `base64`")
    body = bytes(record.body) if record.base64 is None else record.base64
    return Message(body=body, priority=record.priority, **{name: getattr(record, name) for name in ENVELOPE})
