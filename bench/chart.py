"""A line chart with logarithmic axes as SVG, readable on a light and on a dark page; it measures nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 620, 70, 310  # of the plot
COLOURS = ("#2f81f7", "#db6d28", "#2da44e", "#a371f7")
STYLE = """
  text { font: 12px sans-serif; fill: #6e7681 }
  .title { font-size: 15px; font-weight: bold }
  .x { text-anchor: middle }
  .y { text-anchor: end }
  .grid { stroke: #6e7681; stroke-opacity: 0.25 }
"""


class Axis:
    """From values to pixels, logarithmically."""

    def __init__(self, low: float, high: float, first: int, last: int) -> None:
        self.low, self.high = math.log10(low), math.log10(high)
        self._first, self._last = first, last

    def place(self, value: float) -> float:
        """Where `value` is, in pixels."""
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self._first + part * (self._last - self._first), 1)

    def decades(self) -> list[float]:
        """The powers of ten on it."""
        return [10.0**n for n in range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1)]


def chart(title: str, x_title: str, y_title: str, lines: Mapping[str, Points]) -> str:
    """One line for each name; every value is greater than 0."""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    across = Axis(min(xs), max(xs), LEFT + 12, RIGHT - 12)
    up = Axis(10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys))), BOTTOM, TOP)
    parts = [text(LEFT, 22, title, "title"), text((LEFT + RIGHT) / 2, HEIGHT - 10, x_title, "x")]
    parts += [text(RIGHT, 22, y_title, "y")]
    for value in up.decades():
        y = up.place(value)
        parts += [f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>']
        parts += [text(LEFT - 8, y + 4, short(value), "y")]
    for value in across.decades():
        x = across.place(value)
        parts += [f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{BOTTOM}"/>']
        parts += [text(x, BOTTOM + 18, short(value), "x")]
    for column, ((name, points), colour) in enumerate(zip(lines.items(), COLOURS, strict=False)):
        left = LEFT + column * (RIGHT - LEFT) // len(COLOURS)
        places = [(across.place(x), up.place(y)) for x, y in points]
        path = " ".join(f"{x},{y}" for x, y in places)
        parts += [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>']
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in places]
        parts += [f'<rect x="{left}" y="40" width="14" height="4" rx="2" fill="{colour}"/>', text(left + 20, 46, name)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


def text(x: float, y: float, words: str, style: str = "") -> str:
    """Words whose place is that of their start, middle or end, as `style` says."""
    return f'<text x="{x}" y="{y}" class="{style}">{escape(words)}</text>'


def short(value: float) -> str:
    """1000 as 1k, 1000000 as 1M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
