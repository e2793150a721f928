"""Layout: where the boxes and lines of a graph go, in columns from left to right; nothing is drawn here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from statistics import mean

import msgspec

HEIGHT = 40.0  # of a box; all lengths in pixels
ROW = 58.0  # from one box to the one below
GAP = 72.0  # between two columns
MARGIN = 20.0
LANE = 18.0  # between two lines that run back below all boxes
SWEEPS = 12  # over all columns, until every box is about level with its neighbours

Edge = tuple[str, str]
Point = tuple[float, float]
Places = dict[str, float]


class Box(msgspec.Struct, frozen=True):
    """A rectangle, by its upper left corner."""

    x: float
    y: float
    width: float

    @property
    def left(self) -> Point:
        """Where lines come in."""
        return self.x, self.y + HEIGHT / 2

    @property
    def right(self) -> Point:
        """Where they go out."""
        return self.x + self.width, self.y + HEIGHT / 2


class Line(msgspec.Struct, frozen=True):
    """From the right side of a box to the left side of another, by way of the points in between.

    `back`: it runs to the left below all boxes, as its edge closes a cycle; the points are where it does.
    """

    edge: Edge
    points: list[Point]
    back: bool = False


class Layout(msgspec.Struct, frozen=True):
    """No box and no line, but for those that cross, touches another."""

    boxes: dict[str, Box]
    lines: list[Line]
    width: float
    height: float


def layout(widths: Mapping[str, float], edges: Sequence[Edge]) -> Layout:
    """Places for the boxes, whose least `widths` are given, and for the lines along `edges`.

    Of a cycle the edge to the node that stands first in `widths` runs back.
    """
    forward, back = acyclic(list(widths), edges)
    column = columns_of(widths, forward)
    chains = {edge: _through(edge, column) for edge in forward}
    for chain in chains.values():
        column |= {bend: column[chain[0]] + step for step, bend in enumerate(chain[:-1])}
    stacks: list[list[str]] = [[] for _ in set(column.values())]  # each as wide as its widest box
    for key, number in column.items():
        stacks[number].append(key)
    breadths = [max(widths.get(key, 0.0) for key in stack) for stack in stacks]
    lefts = [GAP / 2 + number * GAP + sum(breadths[:number]) for number in range(len(stacks))]
    rows = _rows(stacks, [link for chain in chains.values() for link in pairwise(chain)])
    boxes = {key: Box(lefts[column[key]], rows[key], breadths[column[key]]) for key in column}
    lines = []
    for (source, target), chain in chains.items():
        bends = [end for bend in chain[1:-1] for end in (boxes[bend].left, boxes[bend].right)]
        lines.append(Line((source, target), [boxes[source].right, *bends, boxes[target].left]))
    bottom = max(rows.values(), default=0.0) + HEIGHT
    for source, target in back:
        (x, y), (to_x, to_y) = boxes[source].right, boxes[target].left
        bottom += LANE
        lines.append(Line((source, target), [(x, y), (x, bottom), (to_x, bottom), (to_x, to_y)], back=True))
    side = GAP / 2 if back else MARGIN  # a line that runs back turns outside of its columns
    right = lefts[-1] + breadths[-1] if stacks else 0.0
    return Layout({key: boxes[key] for key in widths}, lines, right + side, bottom + MARGIN)


def acyclic(order: Sequence[str], edges: Iterable[Edge]) -> tuple[list[Edge], list[Edge]]:
    """The edges without cycles, and those that were taken out for it."""
    forward = list(edges)
    back: list[Edge] = []
    while True:
        sources: dict[str, list[str]] = defaultdict(list)
        for source, target in forward:
            sources[target].append(source)
        try:
            TopologicalSorter(sources).prepare()
            return forward, back
        except CycleError as error:
            cut = min(pairwise(error.args[1]), key=lambda edge: order.index(edge[1]))
            forward.remove(cut)
            back.append(cut)


def columns_of(keys: Iterable[str], edges: Iterable[Edge]) -> dict[str, int]:
    """The column of each node: as long as the longest way to it; what has no way to it stands before the next."""
    sources: dict[str, list[str]] = {key: [] for key in keys}
    targets: dict[str, list[str]] = defaultdict(list)
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    column: dict[str, int] = {}
    for key in TopologicalSorter(sources).static_order():
        column[key] = max((column[source] + 1 for source in sources[key]), default=0)
    for key in (key for key in column if not sources[key] and targets[key]):
        column[key] = min(column[target] for target in targets[key]) - 1
    return column


def _through(edge: Edge, column: Mapping[str, int]) -> list[str]:
    """The edge as steps of one column each; in between are bends, which take a place as boxes do."""
    source, target = edge
    bends = [f"{source}\n{target}\n{between}" for between in range(column[source] + 1, column[target])]
    return [source, *bends, target]


def _rows(stacks: Sequence[list[str]], links: Iterable[Edge]) -> Places:
    """Upper ends: each about level with its neighbours, no two of a column nearer than ROW."""
    neighbours: dict[str, list[str]] = defaultdict(list)
    for source, target in links:
        neighbours[source].append(target)
        neighbours[target].append(source)
    rows = {key: place * ROW for stack in stacks for place, key in enumerate(stack)}
    for sweep in range(SWEEPS):
        for stack in stacks[:: -1 if sweep % 2 else 1]:
            _level(stack, neighbours, rows)
    top = min(rows.values(), default=0.0)
    return {key: round(row - top + MARGIN, 1) for key, row in rows.items()}


def _level(stack: list[str], neighbours: Mapping[str, list[str]], rows: Places) -> None:
    wanted = {key: mean(rows[other] for other in neighbours.get(key, [key])) for key in stack}
    stack.sort(key=lambda key: wanted[key])
    for above, key in zip([None, *stack], stack, strict=False):
        rows[key] = max(wanted[key], rows[above] + ROW) if above else wanted[key]
    shift = mean(wanted[key] - rows[key] for key in stack)
    for key in stack:
        rows[key] += shift
