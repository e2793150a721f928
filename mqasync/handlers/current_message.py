"""What is being handled now, in this task and in those that the handler starts; nothing is logged here."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

import msgspec

from ..message import Message


class Handling(msgspec.Struct, gc=False):  # it is in no circle
    """One message or batch in the hands of the queue (exchange, id); no `messages` any more when that is over.

    `trace_id` is hexadecimal, and empty without a trace.
    """

    exchange: str
    id: str
    messages: Sequence[Message]
    trace_id: str = ""


HANDLING: ContextVar[Handling | None] = ContextVar("mqasync_handling", default=None)
"""For who logs or measures: in the task of an attempt, and in those that its handler starts."""
