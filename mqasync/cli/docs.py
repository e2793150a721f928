"""`mqasync docs`: AsyncAPI of modules; nothing is opened."""

from __future__ import annotations

import click
import msgspec

from ..config.settings import Settings
from ..describe.asyncapi import document
from ..service.discovery import discover
from .arguments import MODULES, settings
from .output import OUTPUT, write


@click.command()
@MODULES
@settings
@click.option("--title", help="What the document is called [default: the MODULEs].")
@click.option("--version", default="0.0.0", show_default=True, help="Which version of the services it describes.")
@click.option("--format", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@OUTPUT
def docs(
    modules: tuple[str, ...], settings: Settings, title: str | None, version: str, format: str, output: str
) -> None:
    """Describe what each MODULE receives and sends as an AsyncAPI 3.0 document.

    Payloads are as the handlers' annotations say, descriptions as their docstrings. Only declared outputs are in
    it (`to` of the decorator or of config.yml).
    """
    import yaml

    data = msgspec.json.encode(document(discover(modules), settings, title or " ".join(modules), version))
    if format == "json":
        text = msgspec.json.format(data, indent=2).decode() + "\n"
    else:
        text = yaml.safe_dump(msgspec.json.decode(data), sort_keys=False, allow_unicode=True)
    write(text, output)
