"""What commands print: tables for people, JSON for machines; no command, nothing is read."""

from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from ..complaints import printable

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
START = 80  # characters of a body or an error in a table
OUTPUT = click.option(
    "--output",
    type=click.File("w", "utf-8", lazy=False, atomic=True),
    metavar="FILE",
    default="-",
    help="Write to this file instead of stdout.",
)


def show(rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str) -> None:
    """Print `rows`, all with the same keys: a table (or `empty`, where there are none), or a JSON array."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
    else:
        click.echo("\n".join(table(rows)) if rows else empty)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as lines, below a line with their keys, in which _ is -; numbers to the right, None as a dash."""
    columns = []
    for name in rows[0] if rows else ():
        texts = [name.replace("_", "-"), *(cell(row[name]) for row in rows)]
        side = ">" if any(isinstance(row[name], int | float) for row in rows) else "<"
        width = max(map(len, texts))
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
