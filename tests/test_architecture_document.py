"""docs/architecture.md: its picture and its list are made from the files themselves, and what it names is there.

`make docs` writes them.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

from .test_brokers_document import MARK
from .test_layout import FILES, FLOORS, PACKAGE, imports, module_name

DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"
NAMED = re.compile(r"`([\w/]+\.py)`\s+`([\w.]+)`")


def part(path: Path) -> str:
    """The part of the tower that a file is in: a folder, or the file itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.partition("\n")[0]


def made() -> str:
    """Everything after MARK: the tower from its top, which part imports which, and a line for every file."""
    parts = [name for floor in reversed(FLOORS) for name in sorted(floor)]
    arrows: set[tuple[str, str]] = set()
    for path in FILES:
        for imported in imports(path, ast.walk(ast.parse(path.read_text()))):
            if not imported.startswith("mqasync"):
                continue
            pair = part(path), imported.partition(".")[2].partition(".")[0]
            if pair[0] != pair[1] and set(pair) <= set(parts):
                arrows.add(pair)
    # an arrow that others make anyway is not drawn
    drawn = {(a, c) for a, c in arrows if not any((a, b) in arrows and (b, c) in arrows for b in parts)}
    lines = [MARK, "## The tower", "", "```mermaid", "flowchart TD"]
    lines += [f"  {a} --> {b}" for a, b in sorted(drawn, key=lambda pair: (parts.index(pair[0]), parts.index(pair[1])))]
    lines += ["```", "", "## Every file", ""]
    for name in parts:
        paths = [path for path in FILES if part(path) == name]
        lines += [f"### {name}/" if len(paths) > 1 else f"### {name}.py", ""]
        for path in paths:
            lines.append(f"- `{path.relative_to(PACKAGE)}`: {first_sentence(path)}")
        lines.append("")
    return "\n".join(lines)


def test_the_document_says_what_the_files_say() -> None:
    text = DOCUMENT.read_text()
    assert text[text.index(MARK) :] == made(), "run `make docs`"


@pytest.mark.parametrize(("file", "name"), NAMED.findall(DOCUMENT.read_text()))
def test_what_the_document_names_is_there(file: str, name: str) -> None:
    body: list[ast.stmt] = ast.parse((PACKAGE / file).read_text()).body
    for one in name.split("."):
        (found,) = [node for node in body if getattr(node, "name", "") == one]
        body = getattr(found, "body", [])


def test_every_file_is_in_the_tower() -> None:
    parts = set().union(*FLOORS)
    assert {module_name(path) for path in FILES if part(path) not in parts} == {"mqasync", "mqasync.__main__"}


if __name__ == "__main__":
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(text[: text.index(MARK)] + made())
    sys.exit(0)
