"""Dead letters: the headers that a message gets when it is dead-lettered; settlement.py publishes it."""

from __future__ import annotations

import socket
import time

import msgspec

from ..brokers.publisher import unfit
from ..errors import Expired, Reject
from ..handlers.failure import MAX_TEXT, kind, text, trace
from ..message import Message
from .poison import ALONE

PREFIX = "dead-"
EXPIRED = "expired"
REASONS = ((Reject, "rejected"), (Expired, EXPIRED))
MAX_ID = 255


def dead_letter(message: Message, id: str, error: BaseException) -> Message:
    """`message` as the dead-letter queue of (message.exchange, id) gets it: same id and body, the reason in headers.

    Headers: dead-reason (rejected, expired, else the name of the exception), dead-exception, dead-message, dead-
    traceback (its end; a Reject has none), dead-attempts, dead-returned (Message.returned), dead-exchange, dead-id,
    dead-first-time and dead-last-time (seconds since 1970), dead-host, and dead-own-headers where the message's own
    were larger than any broker takes.
    """
    headers = {
        "dead-reason": next((why for kind, why in REASONS if isinstance(error, kind)), type(error).__name__),
        "dead-exception": kind(error),
        "dead-message": text(error),
        **({} if isinstance(error, Reject) else {"dead-traceback": trace(error)}),
        "dead-attempts": str(message.attempt),
        "dead-returned": str(message.returned),
        "dead-exchange": message.exchange,
        "dead-id": id,
        "dead-first-time": f"{message.time:.3f}",
        "dead-last-time": f"{time.time():.3f}",
        "dead-host": socket.gethostname(),
    }
    if unfit(message):  # a foreign message: no broker would accept it again as it is
        headers["dead-own-headers"] = f"dropped: {', '.join(message.headers)}"[:MAX_TEXT]
        message = msgspec.structs.replace(message, id=message.id[:MAX_ID], producer="", key=None, headers={})
    return msgspec.structs.replace(message, headers=message.headers | headers)


def explained(message: Message) -> Message:
    """The dead letter with a reason, also where it has none because the broker itself dead-lettered it."""
    if "dead-reason" in message.headers:
        return message
    why = "the broker itself dead-lettered it: it was redelivered too often without being acknowledged"
    return msgspec.structs.replace(message, headers=message.headers | {"dead-reason": "returned", "dead-message": why})


def revived(message: Message) -> Message:
    """A dead letter as the message that it was: same id and body, without the headers above, at its first attempt.

    An expired one gets the present as its time, or it would be dead-lettered again.
    """
    published = time.time() if message.headers.get("dead-reason") == EXPIRED else message.time
    own = {name: text for name, text in message.headers.items() if not name.startswith(PREFIX) and name != ALONE}
    return msgspec.structs.replace(message, headers=own, attempt=1, returned=0, time=published)


def dead_lettered_at(message: Message) -> float:
    """When a message was dead-lettered, in seconds since 1970; without that header, when it was published."""
    try:
        return float(message.headers["dead-last-time"])
    except (KeyError, ValueError):
        return message.time
