"""How a figure is measured, shown and written to docs/performance.md: medians of interleaved rounds; no benchmark."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from msgspec import Struct

Work = Callable[[int], Awaitable[object]]

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
MARK = "<!-- From here on this file is made by `make bench`. -->\n"
LIBRARIES = (
    *("aio-pika", "aiormq", "pamqp", "redis", "aiokafka", "nats-py", "asyncpg", "stompman", "aiobotocore"),
    *("uvloop", "msgspec"),
)


class Figure(Struct):
    """CPU microseconds per message and messages a second of one contestant, a value for each round."""

    name: str
    cpu: list[float] = []
    rate: list[float] = []


async def measure(figure: Figure, work: Work, count: int) -> None:
    """Run `work(count)` once and add what it took; CPU is that of this process."""
    cpu, started = time.process_time(), time.perf_counter()
    await work(count)
    figure.rate.append(count / (time.perf_counter() - started))
    figure.cpu.append((time.process_time() - cpu) / count * 1e6)


async def interleaved(contestants: Mapping[str, Work], rounds: int, count: int) -> list[Figure]:
    """Each in turn, `rounds` times, so that what else the machine does meets all of them."""
    figures = {name: Figure(name) for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            await measure(figures[name], work, count)
    return list(figures.values())


class Report:
    """Prints what was measured, and keeps it for the document."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._pictures: dict[str, str] = {}

    def heading(self, text: str, about: str = "") -> None:
        """Begin a section."""
        print(f"\n== {text}\n{about}".rstrip())
        self._lines += ["", f"## {text}", *(["", about] if about else [])]

    def say(self, text: str) -> None:
        """One sentence with a figure in it."""
        print(f"  {text}")
        self._lines += ["", text]

    def picture(self, name: str, about: str, svg: str) -> None:
        """A picture, written beside the document with it."""
        self._pictures[name] = svg
        self._lines += ["", f"![{about}]({name})"]

    def compare(self, title: str, figures: Sequence[Figure], targets: Mapping[str, float]) -> None:
        """A table; the first figure is mqasync's, `targets` bound the ratio of its CPU to the others by name."""
        own = statistics.median(figures[0].cpu)
        rows = []
        for figure in figures:
            cpu = statistics.median(figure.cpu)
            ratio = "" if figure is figures[0] else f"{own / cpu:.2f}{verdict(own / cpu, targets.get(figure.name))}"
            spread = f"{min(figure.cpu):.0f} to {max(figure.cpu):.0f}"
            rows.append([figure.name, f"{cpu:.1f}", spread, f"{statistics.median(figure.rate):,.0f}", ratio])
        self.table([title, "CPU us/message", "(all rounds)", "messages/s", "mqasync's CPU to it"], rows)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Any table; the first column to the left, the others to the right."""
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        print()
        for row in (head, *rows):
            first, *others = (f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(row))
            print(f"  {first}  {'  '.join(others)}".rstrip())
        self._lines += ["", f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
        self._lines += [f"| {' | '.join(row)} |" for row in rows]

    def write(self) -> None:
        """Everything into the document."""
        versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
        machine = f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, {versions}."
        for name, svg in self._pictures.items():
            (DOCUMENT.parent / name).write_text(svg)
        text = DOCUMENT.read_text()
        DOCUMENT.write_text(text[: text.index(MARK)] + "\n".join([MARK + machine, *self._lines]) + "\n")


def verdict(value: float, at_most: float | None = None, *, at_least: float | None = None) -> str:
    """How a figure stands to its target, if there is one."""
    if at_least is not None:
        return f" (target >= {at_least:g}: {'met' if value >= at_least else 'missed'})"
    if at_most is not None:
        return f" (target <= {at_most:g}: {'met' if value <= at_most else 'missed'})"
    return ""
