"""Message to the fields of an entry in a Redis stream and back, whoever wrote them; no connection here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import replace

from ..message import Message

Fields = Sequence[bytes]  # name, value, name, value
DECODER = msgspec.json.Decoder(Message)
NO_ENVELOPE = "it has no field 'envelope': mqasync did not write it"


def to_envelope(message: Message) -> bytes:
    """All of `message` but its body, as JSON."""
    return msgspec.json.encode(replace(message, body=b""))


def to_arguments(exchange: str, messages: Sequence[Message]) -> Iterator[bytes]:
    """Envelope and body of each message, published to `exchange`."""
    for message in messages:
        yield to_envelope(replace(message, exchange=exchange))
        yield message.body


def from_fields(exchange: str, entry: str, fields: Fields) -> tuple[Message, int, str]:
    """The message, how often it came back before this entry was made, and why it cannot be read, if so."""
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    returned, body = values.get(b"returned", b"0"), values.get(b"body", b"")
    problem = ""
    try:
        message = replace(DECODER.decode(values[b"envelope"]), exchange=exchange, body=body)
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        problem = NO_ENVELOPE if isinstance(error, KeyError) else f"its field 'envelope' cannot be read: {error}"
        message = Message(body=body, exchange=exchange, id=entry)
    return message, int(returned) if returned.isdigit() else 0, problem
