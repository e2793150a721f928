"""docs/brokers.md: its table and texts are made from the transports themselves, so they cannot be wrong.

`make docs` writes it.
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from mqasync.transport import Features
from mqasync.transports import SCHEMES

DOCUMENT = Path(__file__).parents[1] / "docs" / "brokers.md"
MARK = "<!-- From here on this file is made by `make docs`. -->\n"
COLUMNS: dict[str, Callable[[Features], str]] = {
    "survives a restart": lambda features: yes(features.durable),
    "several processes": lambda features: yes(features.shared),
    "counts returns": lambda features: yes(features.counts_returns),
    "keeps keys together": lambda features: yes(features.keeps_keys_together),
    "priorities": lambda features: yes(features.priorities),
    "largest body": lambda features: size(features.max_bytes),
}


def yes(value: bool) -> str:
    return "yes" if value else "no"


def size(count: int) -> str:
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count // 2**10} KiB"


def transports() -> dict[str, tuple[ModuleType, Features]]:
    """By module name, each built-in transport's module and features."""
    found = {}
    for name, class_name, _ in SCHEMES.values():
        module = import_module(f"mqasync.transports.{name}")
        found[name] = (module, getattr(module, class_name).features)
    return found


def made() -> str:
    """Everything after MARK."""
    lines = [MARK, f"| | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for name, (_, features) in transports().items():
        lines.append(f"| [{name}](#{name}) | {' | '.join(column(features) for column in COLUMNS.values())} |")
    for name, (module, _) in transports().items():
        assert module.__file__
        docstring = ast.get_docstring(ast.parse(Path(module.__file__).read_text())) or ""
        extra = next(extra for own, _, extra in SCHEMES.values() if own == name)
        install = [f"`pip install 'mqasync[{extra}]'`", ""] if extra else []
        lines += ["", f"## {name}", "", *install, "```text", docstring.partition("\n\n")[2], "```"]
    return "\n".join(lines) + "\n"


def test_the_document_says_what_the_transports_say() -> None:
    text = DOCUMENT.read_text()
    assert text[text.index(MARK) :] == made(), "run `make docs`"


def test_every_transport_says_the_same_things_in_the_same_order() -> None:
    headings = ["URL", "Options", "Delivery", "Order", "Delay", "Dead letters", "What it cannot do"]
    for name, (module, _) in transports().items():
        lines = (module.__doc__ or "").splitlines()
        found = [line.partition(":")[0] for line in lines[1:] if line[:1].strip() and ":" in line]
        assert found == headings, name


if __name__ == "__main__":
    text = DOCUMENT.read_text() if DOCUMENT.exists() else MARK
    DOCUMENT.write_text(text[: text.index(MARK)] + made())
    sys.exit(0)
