"""Drawings of a pipeline as text: Mermaid, Graphviz DOT, SVG and an HTML page; places come from layout.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from itertools import pairwise
from typing import Any

from .layout import GAP, HEIGHT, Box, Edge, Line, layout
from .pipeline import CONSUMER, EXCHANGE, PRODUCER, Node, Pipeline

EMPTY: Mapping[Any, str] = {}
CHARACTER, SMALL = 8.43, 6.63  # pixels; what a letter of the monospaced font takes in first and second lines
NOTED = 24  # letters for which there is room in a second line that changes, so that boxes do not move
PADDING = 32.0
LONGEST = 30  # characters of a name in a picture, which tells all of it on hovering
TURN = GAP / 2  # how far beside its column a line turns back
MERMAID_SHAPES = {PRODUCER: '(["{}"])', EXCHANGE: '["{}"]', CONSUMER: '("{}")'}
DOT_SHAPES = {PRODUCER: "ellipse", EXCHANGE: "box", CONSUMER: "box, style=rounded"}
ROUND = {PRODUCER: HEIGHT / 2, EXCHANGE: 2.0, CONSUMER: 10.0}

STYLE = """
  svg { background: canvas; color: canvastext; color-scheme: light dark }
  text { font: 14px ui-monospace, "DejaVu Sans Mono", Consolas, monospace; fill: currentColor;
         text-anchor: middle; dominant-baseline: central }
  .broker, .caption { font-size: 11px; fill-opacity: .7 }
  .caption { stroke: canvas; stroke-width: 4px; paint-order: stroke }
  rect { stroke: #848d97; fill: #848d97; fill-opacity: .15; stroke-width: 1.5 }
  .producer rect { stroke: #2da44e; fill: #2da44e }
  .exchange rect { stroke: #218bff; fill: #218bff }
  .line { fill: none; stroke: #848d97; stroke-width: 1.5 }
  .head { fill: #848d97 }
"""
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<body style="margin: 2rem; font: 16px/1.5 system-ui, sans-serif">
<h1>{title}</h1>
<figure style="margin: 0; overflow-x: auto">
{svg}</figure>
<p>Green: producers. Blue: exchanges. Grey: consumers.</p>
<ul>
{brokers}</ul>
</html>
"""


def mermaid(graph: Pipeline, title: str) -> str:
    """A flowchart, as Markdown on GitHub and GitLab shows it in a ```mermaid block."""
    names = _names(graph)
    lines = [f"%% {' '.join(title.split())}", "flowchart LR"]
    for key, node in graph.nodes.items():
        label = "<br/>".join(map(_mermaid_text, _label(graph, node)))
        lines.append(f"    {names[key]}{MERMAID_SHAPES[node.kind].format(label)}")
    lines += [f"    {names[source]} --> {names[target]}" for source, target in graph.edges]
    return "\n".join(lines) + "\n"


def dot(graph: Pipeline, title: str) -> str:
    """A digraph for Graphviz."""
    names = _names(graph)
    lines = ["digraph {", f"  label={_quoted(title)}", "  rankdir=LR"]
    for key, node in graph.nodes.items():
        label = r"\n".join(text.replace("\\", r"\\") for text in _label(graph, node))
        lines.append(f"  {names[key]} [label={_quoted(label)}, shape={DOT_SHAPES[node.kind]}]")
    lines += [f"  {names[source]} -> {names[target]}" for source, target in graph.edges]
    return "\n".join([*lines, "}", ""])


def svg(graph: Pipeline, title: str, notes: Mapping[str, str] = EMPTY, captions: Mapping[Edge, str] = EMPTY) -> str:
    """A picture in light or dark, as who looks at it prefers; each node tells on hovering what it is about.

    `notes` are second lines of the boxes by key, `captions` stand on the lines, by edge.
    """
    labels = {
        key: [*map(_cut, _label(graph, node)), *filter(None, [notes.get(key)])][:2] for key, node in graph.nodes.items()
    }
    widths = {key: _width(label, NOTED if key in notes else 0) for key, label in labels.items()}
    placed = layout(widths, graph.edges)
    size = f'width="{placed.width:g}" height="{placed.height:g}" viewBox="0 0 {placed.width:g} {placed.height:g}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{_text(title)}</title>",
        f"<style>{STYLE}</style>",
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path class="head" d="M0 0 8 4 0 8z"/></marker>',
    ]
    parts += [f'<path class="line" marker-end="url(#head)" d="{_path(line)}"/>' for line in placed.lines]
    for key, node in graph.nodes.items():
        parts += _box(node, placed.boxes[key], labels[key])
    parts += [_caption(line, captions[line.edge]) for line in placed.lines if captions.get(line.edge)]
    return "\n".join([*parts, "</svg>", ""])


def _caption(line: Line, text: str) -> str:
    """In the middle of the line's last step, which is a gap between two columns."""
    (x, y), (to_x, to_y) = line.points[-2:]
    return f'<text class="caption" x="{(x + to_x) / 2:g}" y="{(y + to_y) / 2 - 9:g}">{_text(text)}</text>'


def _box(node: Node, box: Box, label: list[str]) -> list[str]:
    middle = f'x="{box.x + box.width / 2:g}"'
    name, *broker = label
    about = _text(f"{node.kind} {node.name}" + (node.about and f": {node.about}"))
    return [
        f'<g class="{node.kind}" data-name="{_text(node.name)}"><title>{about}</title>',
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{HEIGHT:g}" rx="{ROUND[node.kind]:g}"/>',
        f'<text {middle} y="{box.y + HEIGHT / 2 - 7 * len(broker):g}">{_text(name)}</text>',
        *(f'<text class="broker" {middle} y="{box.y + HEIGHT - 11:g}">{_text(text)}</text>' for text in broker),
        "</g>",
    ]


def html(graph: Pipeline, title: str) -> str:
    """A page of its own: no network, no script."""
    brokers = "".join(f"<li>{_text(name)}: {_text(address)}</li>\n" for name, address in graph.brokers.items())
    return PAGE.format(title=_text(title), svg=svg(graph, title), brokers=brokers)


DRAWINGS: dict[str, Callable[[Pipeline, str], str]] = {"mermaid": mermaid, "dot": dot, "html": html, "svg": svg}
"""By the name of the format; each takes the pipeline and a title."""


def _label(graph: Pipeline, node: Node) -> list[str]:
    """The lines of a box: an exchange says who carries it, where there is a choice."""
    carried = node.kind == EXCHANGE and len(graph.brokers) > 1
    return [node.label, *([f"on {' '.join(node.broker.split())}"] if carried else [])]


def _width(label: list[str], room: int) -> float:
    """`room`: letters of a second line, or more."""
    name, *second = label
    return PADDING + max(CHARACTER * len(name), SMALL * max(room, *map(len, second), 0))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\u2026"


def _names(graph: Pipeline) -> dict[str, str]:
    return {key: f"n{number}" for number, key in enumerate(graph.nodes)}


def _mermaid_text(text: str) -> str:
    """Every character that may mean something to Mermaid or HTML by its number."""
    return "".join(
        character if character.isalnum() or character in "._- " else f"#{ord(character)};" for character in text
    )


def _quoted(text: str) -> str:
    return '"' + text.replace('"', r"\"") + '"'


def _text(text: str) -> str:
    """For SVG and HTML, in text and in attributes; what XML cannot carry is shown as it cannot."""
    return escape("".join(character if character.isprintable() else "\ufffd" for character in text))


def _path(line: Line) -> str:
    """Smooth from point to point, horizontal at each; a line that runs back turns at both ends."""
    (x, y), *_ = line.points
    steps = [f"M{x:g} {y:g}"]
    for (from_x, from_y), (to_x, to_y) in pairwise(line.points):
        half = (to_x - from_x) / 2
        if line.back and half == 0:
            half = TURN if to_x == x else -TURN
            steps.append(f"C{from_x + half:g} {from_y:g} {to_x + half:g} {to_y:g} {to_x:g} {to_y:g}")
        else:
            steps.append(f"C{from_x + half:g} {from_y:g} {to_x - half:g} {to_y:g} {to_x:g} {to_y:g}")
    return " ".join(steps)
