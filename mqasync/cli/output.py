"""What commands print: tables for people, JSON for machines; no command, nothing is read."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from ..complaints import printable
from ..errors import ConfigurationError

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of a table.")
START = 80  # characters of a body or an error in a table
OUTPUT = click.option("--output", metavar="FILE", default="-", help="Write to this file instead of stdout.")


def show(rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str) -> None:
    """Print `rows`, all with the same keys: a table (or `empty`, where there are none), or a JSON array."""
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(rows), indent=2))
    else:
        say("\n".join(table(rows)) if rows else empty)


def say(text: str | bytes, nl: bool = True) -> None:
    """Print a line or several; where nobody reads any more the command ends at once, without a word, with 1."""
    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python itself complains at its end
        raise click.exceptions.Exit(1) from None


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as lines, below one with their keys; numbers to the right, None as a dash."""
    columns = []
    for name in rows[0]:
        texts = [name, *(cell(row[name]) for row in rows)]
        width, side = max(map(len, texts)), ">" if any(isinstance(row[name], int | float) for row in rows) else "<"
        columns.append([f"{text:{side}{width}}" for text in texts])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def cell(value: Any) -> str:
    """One value as a person reads it, on one line."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return printable(str(value))


def counted(count: int, what: str) -> str:
    """So many of `what`, in words."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def start(body: bytes) -> str:
    """The start of a body, for a table."""
    return body[: 4 * START].decode(errors="replace")[:START]


def age(seconds: float) -> str:
    """How long ago, in the largest whole unit: 45s, 12m, 3h, 5d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def write(text: str, output: str) -> None:
    """Write `text` to the file `output`, or to stdout for "-". Raises ConfigurationError."""
    if output == "-":
        return say(text, nl=False)
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{output!r} cannot be written: {error.strerror}") from error
