"""Tracebacks as commands print them: a service's own part, and nothing that looks like a log line; none is caught."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

import click

from .. import __file__ as package
from ..complaints import printable
from ..masking import hide

# what leads from the command to a service's own code: mqasync, click, asyncio, importlib and uvloop
OURS = (*(os.path.dirname(file) for file in (package, click.__file__, os.__file__)), "<frozen", "uvloop")


def their_trace(error: BaseException) -> str:
    """The traceback of a service's error, without what is not the service's."""
    trace = "".join(traceback.format_exception(error.with_traceback(theirs(error))))
    return indented(trace.rstrip("\n"))


def theirs(error: BaseException) -> TracebackType | None:
    """The traceback from the service's own code on; all of it where none is in it."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename.startswith(OURS):
        trace = trace.tb_next
    return trace if trace or isinstance(error, SyntaxError) else error.__traceback__


def indented(trace: str) -> str:
    """A traceback without secrets, in which no line begins as a log line does, control characters escaped."""
    return "\n".join(f"  {printable(line)}" for line in hide(trace).split("\n"))
