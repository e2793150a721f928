"""Replies: what a handler returned or raised, as a message to the requester; requests are made in request.py."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigurationError
from ..message import Message, Out, output_id
from ..transport import check_name
from .codec import encode
from .failure import text

REPLIES = "mqasync.reply"
"""The exchange of all replies, of every version; each Requester has an unbound queue of its own there."""
REPLY_TO = "reply-to"  # header of a request: the id of the queue that waits for the reply
REPLY_FOR = "reply-for"  # header of a reply: the id of the request
ERROR = "reply-error"  # header of a reply: the name of what the handler raised; the body is its text


def reply_to(message: Message) -> str | None:
    """The id of the queue that waits for what the handler returns, if there is one."""
    if REPLY_TO not in message.headers:
        return None
    try:
        return check_name("id", message.headers[REPLY_TO])
    except ConfigurationError:  # a foreign message: there is no such queue
        return None


def result(request: Message, value: Any, id: str) -> Message:
    """The reply with what the handler of queue `id` returned. Raises ConfigurationError if JSON cannot carry it."""
    return _reply(request, encode(value.body if isinstance(value, Out) else value), id)


def failure(request: Message, error: BaseException, id: str) -> Message:
    """The reply with the error that the handler of queue `id` raised."""
    return _reply(request, encode(text(error)), id, {ERROR: type(error).__name__})


def _reply(request: Message, body: bytes, id: str, headers: dict[str, str] | None = None) -> Message:
    return Message(
        body=body,
        exchange=REPLIES,
        id=output_id(request.id, REPLIES, id),
        producer=id,
        headers={REPLY_FOR: request.id, **(headers or {})},
    )
