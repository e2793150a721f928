"""Dead letters: what a message carries when it is buried; where it is sent is the channel's business."""

from __future__ import annotations

import socket
import time
import traceback

import msgspec

from .complaints import text_of
from .errors import Reject
from .masking import hide
from .message import Message
from .publisher import unfit

PREFIX = "dead-"
MAX_TRACEBACK = 8_000
MAX_TEXT = 1_000
MAX_ID = 255


def dead_letter(message: Message, id: str, error: BaseException) -> Message:
    """`message` as the dead letters of queue (message.exchange, id) keep it: same id and body, why in its headers.

    Headers: dead-reason (rejected, invalid, failed), dead-exception, dead-message, dead-traceback (its end),
    dead-attempts, dead-exchange, dead-id, dead-first-time and dead-last-time (seconds since 1970), dead-host,
    and dead-own-headers where the message's own were larger than any broker takes.
    """
    kind = "rejected" if isinstance(error, Reject) else type(error).__name__
    trace = hide("".join(traceback.format_exception(error)))
    headers = {
        "dead-reason": kind,
        "dead-exception": f"{type(error).__module__}.{type(error).__qualname__}",
        "dead-message": text_of(error)[:MAX_TEXT],
        "dead-traceback": trace[-MAX_TRACEBACK:],
        "dead-attempts": str(message.attempt),
        "dead-exchange": message.exchange,
        "dead-id": id,
        "dead-first-time": f"{message.time:.3f}",
        "dead-last-time": f"{time.time():.3f}",
        "dead-host": socket.gethostname(),
    }
    # an exception's text may hold lone surrogates, which no broker can carry
    clean = {name: text.encode("utf-8", "replace").decode() for name, text in headers.items()}
    if unfit(message):  # a stranger's: no broker would take it again as it is
        clean["dead-own-headers"] = f"dropped: {', '.join(message.headers)}"[:MAX_TEXT]
        message = msgspec.structs.replace(message, id=message.id[:MAX_ID], producer="", key=None, headers={})
    return msgspec.structs.replace(message, headers=message.headers | clean)


def revived(message: Message) -> Message:
    """A dead letter as the message it was before: same id and body, without the headers above, at its first attempt."""
    own = {name: text for name, text in message.headers.items() if not name.startswith(PREFIX)}
    return msgspec.structs.replace(message, headers=own, attempt=1)


def buried_at(message: Message) -> float:
    """When a dead letter was buried, in seconds since 1970; when it was published, where it does not tell."""
    try:
        return float(message.headers["dead-last-time"])
    except (KeyError, ValueError):
        return message.time
