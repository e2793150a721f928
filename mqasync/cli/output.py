"""What commands print: tables for people, JSON for machines; no command, nothing is read."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..complaints import printable

if TYPE_CHECKING:
    from rich.table import Table

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of a table.")
SHORT = 20  # characters of a cell that is shown whole
WIDE = 1000  # columns of a table that no terminal shows: nothing is cut off for who reads a pipe


def show(rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str) -> None:
    """Print `rows`, all with the same keys: a table (or `empty`, where there are none), or a JSON array."""
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(rows), indent=2))
    elif not rows:
        say(empty)
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else WIDE).print(table(rows))


def say(text: str | bytes) -> None:
    """Print a line or several; where nobody reads any more the command ends at once, without a word, with 1."""
    try:
        click.echo(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python itself complains at its end
        raise click.exceptions.Exit(1) from None


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows as a table, its columns named by their keys; numbers to the right, None as a dash."""
    from rich.table import Table
    from rich.text import Text

    columns = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        numbers = any(isinstance(row[name], int | float) for row in rows)
        whole = max(len(cell(row[name])) for row in rows) <= SHORT  # only what is longer gives way on a narrow terminal
        columns.add_column(name, justify="right" if numbers else "left", overflow="ellipsis", no_wrap=whole)
    for row in rows:  # Text: a stranger's markup is only text
        columns.add_row(*(Text(cell(value), no_wrap=True, overflow="ellipsis") for value in row.values()))
    return columns


def cell(value: Any) -> str:
    """One value as a person reads it, on one line."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return printable(str(value))


def age(seconds: float) -> str:
    """How long ago, in the largest whole unit: 45s, 12m, 3h, 5d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
