"""The table of faults and figures, as a run of this suite measured them; written to docs/reliability.md on demand."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import msgspec

DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"
HEAD = """# Reliability: faults and figures

Made by `make faults`, not by hand: every row is a test in `tests/faults/` that makes the fault while messages
flow, and a ledger that knows which publishes returned. A message is lost when its publish returned and it is neither
handled nor in the dead-letter queue in the end. "Handled again" counts duplicates, which at-least-once delivery allows.
"Recovery" is the longest time without a handled message after the broker was back (for a black hole: after it began);
it is the worse of two runs, on asyncio and on uvloop.

"""


class Row(msgspec.Struct):
    """One fault and what came of it."""

    broker: str
    fault: str
    confirmed: int
    lost: int
    repeated: int
    recovery: float | None = None
    remark: str = ""


ROWS: list[Row] = []


def table() -> str:
    """All rows so far, as Markdown."""
    lines = ["| broker | fault | confirmed | lost | handled again | recovery | |", "|---|---|--:|--:|--:|--:|---|"]
    for row in ROWS:
        recovery = "" if row.recovery is None else f"{row.recovery:.1f} s"
        figures = f"{row.confirmed:,} | {row.lost:,} | {row.repeated:,} | {recovery}"
        lines.append(f"| {row.broker} | {row.fault} | {figures} | {row.remark} |")
    return "\n".join(lines)


def write() -> None:
    """Write the document."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("aio-pika", "aiormq", "pamqp"))
    where = f"Python {platform.python_version()}, {libraries}, {os.cpu_count()} cores.\n"
    DOCS.parent.mkdir(exist_ok=True)
    DOCS.write_text(f"{HEAD}{table()}\n\n{where}")
