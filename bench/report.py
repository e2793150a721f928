"""How a figure is measured and shown: medians of interleaved rounds; nothing is measured here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

from msgspec import Struct

Work = Callable[[int], Awaitable[None]]


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


def show(title: str, figures: list[Figure], targets: dict[str, float]) -> None:
    """Print one table; the first figure is mqasync's, `targets` bound its ratio to the others by name."""
    print(f"\n{title}")
    print(f"  {'':28} {'CPU us/message':>15} {'(min..max)':>14} {'messages/s':>12} {'CPU ratio':>11}")
    own = statistics.median(figures[0].cpu)
    for figure in figures:
        cpu = statistics.median(figure.cpu)
        spread = f"{min(figure.cpu):.0f}..{max(figure.cpu):.0f}"
        line = f"  {figure.name:28} {cpu:15.1f} {spread:>14} {statistics.median(figure.rate):12,.0f}"
        if figure is not figures[0]:
            line += f" {own / cpu:11.2f}" + verdict(own / cpu, targets.get(figure.name))
        print(line)


def verdict(value: float, at_most: float | None) -> str:
    """How a figure stands to its target."""
    if at_most is None:
        return ""
    return f"  (target <= {at_most:g}: {'ok' if value <= at_most else 'missed'})"
