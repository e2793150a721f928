"""The log on stderr: lines for people or JSON lines, neither of which a stranger can forge; nothing is logged here."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import click

from ..complaints import printable
from ..handlers.current_message import HANDLING
from ..masking import hide
from .traces import indented, their_trace, theirs

MAX_ID = 100  # characters of a message's id


class Format(logging.Formatter):
    """What the two have in common: how to format what is not logged."""

    def say(self, text: str) -> None:
        """A log line, by other means: a signal may interrupt logging, which cannot be entered twice."""
        with suppress(OSError):
            os.write(sys.stderr.fileno(), f"{self.format(unlogged(logging.INFO, text))}\n".encode())

    def end(self, text: str, error: Exception | None = None) -> None:
        """Tell why the command ends: `text`, or the traceback of `error`."""
        raise NotImplementedError


class Human(Format):
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
        """A sentence, or a traceback and nothing else."""
        click.echo(their_trace(error) if error else printable(hide(f"mqasync: {text}")), err=True)


class Json(Format):
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
        """One more line."""
        click.echo(self.format(unlogged(logging.ERROR, text, error)), err=True)


def unlogged(level: int, text: str, error: Exception | None = None) -> logging.LogRecord:
    """A record that no logger has made, so it is about no message."""
    info = (type(error), error, theirs(error)) if error else None
    return logging.LogRecord("mqasync", level, "", 0, text, None, info)


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


def set_up(format: str, command: str | None) -> Format:
    """Log to stderr from now on; `format` is "human", "json" or "auto": JSON for services that no person looks at."""
    if format == "auto":
        format = "json" if command == "run" and not sys.stderr.isatty() else "human"
    formatter = Json() if format == "json" else Human()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(about_what)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return formatter
