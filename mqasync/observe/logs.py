"""The log on stderr, for people or as JSON lines, and tracebacks; no message can forge a line; nothing is caught here.

Of a traceback only the service's own part is shown, and none of its lines looks like a log line.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import click

from .. import __file__ as package
from ..complaints import printable
from ..errors import ConfigurationError
from ..handlers.current_message import HANDLING
from ..masking import hide

log = logging.getLogger("mqasync")

LEVELS = ("debug", "info", "warning", "error", "critical")
MAX_ID = 100  # characters of a message's id
# what leads from the command to a service's own code: mqasync, click, asyncio, importlib and uvloop
OURS = (*(os.path.dirname(file) for file in (package, click.__file__, os.__file__)), "<frozen", "uvloop")


class Human(logging.Formatter):
    """The time and the text; before what a handler logs, which message it is about."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without its traceback, control characters escaped."""
        about = getattr(record, "about", None)
        if about and record.name != "mqasync":  # which says it itself
            what = (
                f"{about['message_id']} {about['attempt']}" if "attempt" in about else f"{about['messages']} messages"
            )
            record.message = f"[{about['exchange']}/{about['id']} {what}] {record.message}"
        return printable(hide(super().formatMessage(record)))

    def format(self, record: logging.LogRecord) -> str:
        """All of it."""
        record.exc_text = None  # what another formatter has made of the traceback
        return super().format(record)

    def formatException(self, info: Any) -> str:
        """The traceback, in which no line begins as a log line does, control characters escaped."""
        return indented(super().formatException(info))

    def end(self, text: str, error: Exception | None = None) -> None:
        """Print why the command ends: a sentence, or a traceback and nothing else."""
        print(their_trace(error) if error else printable(hide(f"mqasync: {text}")), file=sys.stderr)


class Json(logging.Formatter):
    """One JSON object a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (RFC 3339, UTC), level, logger and message; what is being handled; the traceback as `exception`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": hide(record.getMessage().strip()),
            **getattr(record, "about", {}),
        }
        if record.exc_info:
            line["exception"] = hide(self.formatException(record.exc_info))
        return json.dumps(line).replace("\x7f", "\\u007f")

    def end(self, text: str, error: Exception | None = None) -> None:
        """Log why the command ends: one more line."""
        log.error("%s", text, exc_info=(type(error), error, theirs(error)) if error else None)


def about_what(record: logging.LogRecord) -> bool:
    """A filter that lets everything pass, and notes what is being handled."""
    if (handling := HANDLING.get()) and handling.messages:
        about: dict[str, Any] = {"exchange": handling.exchange, "id": handling.id}
        if len(handling.messages) == 1:
            (message,) = handling.messages
            about |= {"message_id": message.id[:MAX_ID], "attempt": message.attempt}
        else:
            about |= {"messages": len(handling.messages)}
        if handling.trace_id:
            about["trace_id"] = handling.trace_id
        record.about = about
    return True


def set_up(format: str, command: str | None) -> Human | Json:
    """Log to stderr from now on; `format` is "human", "json" or "auto": JSON for `run` without a terminal."""
    if format == "auto":
        format = "json" if command == "run" and not sys.stderr.isatty() else "human"
    formatter = Json() if format == "json" else Human()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(about_what)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return formatter


def set_levels(levels: Iterable[str]) -> None:
    """Log from which level on: "debug" for all, "aio_pika=debug" for one logger. Raises ConfigurationError."""
    for given in levels:
        logger, equals, level = given.rpartition("=")
        if level not in LEVELS or bool(equals) != bool(logger):
            takes = f"it takes {', '.join(LEVELS)}, or one for a logger: aio_pika=debug"
            raise ConfigurationError(f"--log-level {given!r} is not a level; {takes}")
        logging.getLogger(logger or None).setLevel(level.upper())


def say(text: str) -> None:
    """A log line, by other means: a signal may interrupt logging, which cannot be entered twice."""
    record = logging.LogRecord("mqasync", logging.INFO, "", 0, text, None, None)
    for handler in logging.getLogger().handlers[:1]:
        with suppress(OSError):
            os.write(sys.stderr.fileno(), f"{handler.format(record)}\n".encode())


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
