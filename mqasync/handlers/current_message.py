"""Which message is being handled, in this task and those that the handler starts; nothing is logged here."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

import msgspec

from ..message import Message


class Handling(msgspec.Struct, gc=False):  # it is in no circle
    """One message or batch of the queue (exchange, id) while it is handled; afterwards `messages` is empty.

    `trace_id` is hexadecimal, and empty without a trace.
    """

    exchange: str
    id: str
    messages: Sequence[Message]
    trace_id: str = ""


HANDLING: ContextVar[Handling | None] = ContextVar("mqasync_handling", default=None)
"""For logging and measuring: set in the task of an attempt, and in those that its handler starts."""
