"""What commands print: tables for people, JSON for machines; no command, nothing is read."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..complaints import printable
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import OverflowMethod
    from rich.table import Table
    from rich.text import Text

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of a table.")
START = 200  # characters of a body or an error in a table
SHORT = 20  # characters of a cell that is shown whole
OUTPUT = click.option("--output", metavar="FILE", default="-", help="Write to this file instead of stdout.")
WIDE = 1000  # columns of a table that no terminal shows: nothing is cut off for who reads a pipe


def show(rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str, wrapped: str = "") -> None:
    """Print `rows`, all with the same keys: a table (or `empty`, where there are none), or a JSON array.

    The column `wrapped` takes several lines where it is too wide; of the others the end is cut off.
    """
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(rows), indent=2))
    elif not rows:
        say(empty)
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else WIDE).print(table(rows, wrapped))


def say(text: str | bytes, nl: bool = True) -> None:
    """Print a line or several; where nobody reads any more the command ends at once, without a word, with 1."""
    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python itself complains at its end
        raise click.exceptions.Exit(1) from None


def table(rows: Sequence[Mapping[str, Any]], wrapped: str = "") -> Table:
    """The rows as a table, its columns named by their keys; numbers to the right, None as a dash; see `show`."""
    from rich.table import Table

    columns = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        numbers = any(isinstance(row[name], int | float) for row in rows)
        whole = max(len(cell(row[name])) for row in rows) <= SHORT  # only what is longer gives way on a narrow terminal
        overflow: OverflowMethod = "fold" if name == wrapped else "ellipsis"
        columns.add_column(name, justify="right" if numbers else "left", overflow=overflow, no_wrap=whole)
    for row in rows:
        columns.add_row(*(_text(value, name == wrapped) for name, value in row.items()))
    return columns


def _text(value: Any, wrapped: bool) -> Text:
    from rich.text import Text

    # a stranger's markup is only text
    return Text(cell(value), no_wrap=not wrapped, overflow="fold" if wrapped else "ellipsis")


def cell(value: Any) -> str:
    """One value as a person reads it, on one line."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return printable(str(value))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, each column as wide as its longest text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


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
