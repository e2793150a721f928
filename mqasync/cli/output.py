"""What commands print: tables for people, JSON for machines; no command, nothing is read."""

from __future__ import annotations

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

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines instead of a table.")
OUTPUT = click.option("--output", metavar="FILE", default="-", help="Write to this file instead of stdout.")
WIDE = 1000  # columns of a table that no terminal shows: nothing is cut off for who reads a pipe


def show(rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str, wrapped: str = "") -> None:
    """Print `rows`, all with the same keys: a table (or `empty`, where there are none), or a JSON array.

    The column `wrapped` takes several lines where it is too wide; of the others the end is cut off.
    """
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
    elif not rows:
        click.echo(empty)
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else WIDE).print(table(rows, wrapped))


def table(rows: Sequence[Mapping[str, Any]], wrapped: str = "") -> Table:
    """The rows as a table, its columns named by their keys; numbers to the right, None as a dash; see `show`."""
    from rich.table import Table
    from rich.text import Text

    columns = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        numbers = any(isinstance(row[name], int | float) for row in rows)
        overflow: OverflowMethod = "fold" if name == wrapped else "ellipsis"
        columns.add_column(name, justify="right" if numbers else "left", overflow=overflow, no_wrap=name != wrapped)
    for row in rows:
        columns.add_row(*(Text(cell(value)) for value in row.values()))  # Text: a stranger's markup is only text
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


def write(text: str, output: str) -> None:
    """Write `text` to the file `output`, or to stdout for "-". Raises ConfigurationError."""
    if output == "-":
        return click.echo(text, nl=False)
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{output!r} cannot be written: {error.strerror}") from error
