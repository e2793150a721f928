"""Drawings of a pipeline: Mermaid, and Graphviz DOT, of which Graphviz itself makes SVG and an HTML page."""

import subprocess
from collections.abc import Callable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from ..errors import ConfigurationError
from .pipeline import CONSUMER, EXCHANGE, PRODUCER, Edge, Node, Pipeline

Notes = Mapping[str, str]
Captions = Mapping[Edge, str]
EMPTY: Mapping[Any, str] = {}
NOTED = 2.0  # inches for a second line that changes, so that boxes do not move
MERMAID_SHAPES = {PRODUCER: '(["{}"])', EXCHANGE: '["{}"]', CONSUMER: '("{}")'}
DOT_SHAPES = {PRODUCER: "ellipse", EXCHANGE: "box", CONSUMER: "box, style=rounded"}


def mermaid(graph: Pipeline, title: str) -> str:
    """A flowchart, as Markdown on GitHub and GitLab shows it in a ```mermaid block."""
    names = {key: f"n{number}" for number, key in enumerate(graph.nodes)}
    lines = [f"%% {' '.join(title.split())}", "flowchart LR"]
    for key, node in graph.nodes.items():
        label = "<br/>".join(map(_mermaid_text, _label(graph, node)))
        lines.append(f"    {names[key]}{MERMAID_SHAPES[node.kind].format(label)}")
    lines += [f"    {names[source]} --> {names[target]}" for source, target in graph.edges]
    return "\n".join(lines) + "\n"


def dot(graph: Pipeline, title: str, notes: Notes = EMPTY, captions: Captions = EMPTY) -> str:
    """A digraph for Graphviz; each node shows on hovering what it is about.

    `notes` are second lines of the boxes by key, `captions` stand on the lines, by edge.
    """
    lines = [f"digraph {_quoted(title)} {{", "  rankdir=LR; node [fontname=Courier]; edge [fontname=Courier]"]
    for key, node in graph.nodes.items():
        label = _quoted(*_label(graph, node), *filter(None, [notes.get(key)]))
        about = _quoted(f"{node.kind} {node.name}" + (node.about and f": {node.about}"))
        width = f", width={NOTED}" if key in notes else ""
        looks = f"class={node.kind}, shape={DOT_SHAPES[node.kind]}{width}"
        lines.append(f"  {_quoted(key)} [label={label}, tooltip={about}, {looks}]")
    for source, target in graph.edges:
        caption = _quoted(captions.get((source, target), ""))
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [label={caption}]")
    return "\n".join([*lines, "}", ""])


def svg(graph: Pipeline, title: str, notes: Notes = EMPTY, captions: Captions = EMPTY) -> str:
    """A picture in light or dark, as the viewer prefers; see `dot`.

    Raises ConfigurationError where Graphviz is not installed.
    """
    try:
        drawn = subprocess.run(
            ["dot", "-Tsvg"],  # noqa: S607, where it is is up to the system
            input=dot(graph, title, notes, captions).encode(),
            capture_output=True,
            check=True,
        ).stdout.decode()
    except FileNotFoundError:
        raise ConfigurationError("a picture needs Graphviz's program `dot`: install `graphviz`") from None
    return drawn[drawn.index("<svg") :].replace(">", f">\n<style>{_text_of('picture.css')}</style>", 1)


def html(graph: Pipeline, title: str) -> str:
    """A page of its own: no network, no script. Raises ConfigurationError as `svg` does."""
    addresses = [escape(f"{name}: {address}") for name, address in graph.brokers.items()]
    brokers = "".join(f"<li>{address}</li>\n" for address in addresses)
    return _text_of("page.html").format(title=escape(title), svg=svg(graph, title), brokers=brokers)


DRAWINGS: dict[str, Callable[[Pipeline, str], str]] = {"mermaid": mermaid, "dot": dot, "html": html, "svg": svg}
"""By the name of the format; each takes the pipeline and a title."""


def _text_of(name: str) -> str:
    """A file beside this one."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _label(graph: Pipeline, node: Node) -> list[str]:
    """The lines of a box: an exchange says who carries it, where there is a choice."""
    carried = node.kind == EXCHANGE and len(graph.brokers) > 1
    return [node.label, *([f"on {' '.join(node.broker.split())}"] if carried else [])]


def _mermaid_text(text: str) -> str:
    """Every character that may mean something to Mermaid or HTML by its number."""
    return "".join(
        character if character.isalnum() or character in "._- " else f"#{ord(character)};" for character in text
    )


def _quoted(*lines: str) -> str:
    """For DOT: no entity and no escape is read into it, and what XML cannot carry is shown as that."""
    texts = ("".join(one if one.isprintable() else "\ufffd" for one in line) for line in lines)
    escaped = (text.replace("\\", r"\\").replace('"', r"\"").replace("&", "&amp;") for text in texts)
    return '"' + r"\n".join(escaped) + '"'
