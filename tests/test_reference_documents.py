"""docs/cli.md and docs/configuration.md: made from the commands and the settings themselves, so they cannot be wrong.

`make docs` writes them.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from mqasync.cli import main
from mqasync.config.settings import DEFAULT_URL, ExchangeSettings, QueueSettings, Settings
from mqasync.handler import ConsumerOptions

from .test_brokers_document import MARK

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS: dict[str, list[type[msgspec.Struct]]] = {  # key in config.yml, the structs that take its values
    "exchanges.NAME": [ExchangeSettings],
    "consumers.EXCHANGE/ID": [ConsumerOptions, QueueSettings],
}
TYPES = {
    "tuple[str, ...]": "a name, or a list of names",
    "tuple[type[Exception], ...]": "a list of names: [ValueError]",
    "dict[str, Any]": "keys with values",
    "bool": "true or false",
    "list[str | dict[str, str]]": "a list of binding keys, or of headers with their values",
}


def cli() -> str:
    """What `--help` says of every command."""
    lines = [MARK]
    for name, command in commands(main, ("mqasync",)):
        context = click.Context(command, info_name=name, max_content_width=100, terminal_width=100)
        lines += [f"## {name}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(lines)


def commands(group: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path), group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def configuration() -> str:
    """A table for each section, from the docstrings and defaults of what takes its values."""
    about = told(Settings)
    lines = [MARK, "| key | takes | |", "|---|---|---|"]
    lines.append(f"| `brokers.NAME` | a URL | {about['brokers']} Without any: `main: {DEFAULT_URL}` |")
    lines.append(f"| `services.MODULE` | keys with values | {about['services']} |")
    lines.append(f"| `dedup` | a URL | {about['dedup']} |")
    for key, structs in SECTIONS.items():
        lines += ["", f"## {key}", "", "| key | takes | default | |", "|---|---|---|---|"]
        for struct in structs:
            about = told(struct)
            for field in msgspec.structs.fields(struct):
                lines.append(f"| `{field.name}` | {takes(field.type)} | {default(field)} | {about[field.name]} |")
    return "\n".join(lines) + "\n"


def told(struct: type[msgspec.Struct]) -> dict[str, str]:
    """What the struct's docstring says of each field: "`name`: text." or "`one`, `two`: text"."""
    text = " ".join((struct.__doc__ or "").split())
    parts = re.split(r"((?:`\w+`(?:, )?)+): ", text)
    found: dict[str, str] = {}
    for names, said in zip(parts[1::2], parts[2::2], strict=True):
        found |= {name: said.strip() for name in re.findall(r"`(\w+)`", names)}
    missing = [field for field in struct.__struct_fields__ if field not in found]
    assert not missing, f"the docstring of {struct.__name__} says nothing of {missing}"
    return found


def takes(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and "[" not in str(kind) else str(kind)
    text = text.replace(" | None", "").replace("typing.", "")
    return TYPES.get(text, {"str": "text", "int": "a number", "float": "a duration: 30, 30s, 5m"}.get(text, text))


def default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return "" if value in (None, (), [], {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


DOCUMENTS: dict[str, Callable[[], str]] = {"cli.md": cli, "configuration.md": configuration}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_says_what_the_code_says(name: str) -> None:
    text = (DOCS / name).read_text()
    assert text[text.index(MARK) :] == DOCUMENTS[name](), "run `make docs`"


if __name__ == "__main__":
    for name, made in DOCUMENTS.items():
        text = (DOCS / name).read_text()
        (DOCS / name).write_text(text[: text.index(MARK)] + made())
    sys.exit(0)
