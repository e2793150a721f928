"""`mqasync graph`, `docs`, `config`: modules as a picture or AsyncAPI, configuration; nothing is opened."""

from typing import TextIO

import click
import msgspec

from ..config.settings import Settings
from ..describe.asyncapi import document
from ..describe.drawing import DRAWINGS
from ..describe.pipeline import pipeline
from ..masking import shown
from ..service.discovery import discover
from .arguments import MODULES, settings
from .output import OUTPUT


@click.command()
@MODULES
@settings
@click.option("--format", type=click.Choice(list(DRAWINGS)), default="mermaid", show_default=True)
@OUTPUT
def graph(modules: tuple[str, ...], settings: Settings, format: str, output: TextIO) -> None:
    """Draw the producers, exchanges and consumers of each MODULE.

    Only declared outputs are drawn (`to` in the decorator or in config.yml): the exchange of an
    Out(..., exchange=...) is known only when the handler runs. Dead letters are not drawn. The formats svg and
    html need Graphviz.
    """
    click.echo(DRAWINGS[format](pipeline(discover(modules), settings), " ".join(modules)), output, nl=False)


@click.command()
@MODULES
@settings
@click.option("--title", help="Title of the document [default: the MODULEs].")
@click.option("--version", default="0.0.0", show_default=True, help="Version of the services that it describes.")
@click.option("--format", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@OUTPUT
def docs(
    modules: tuple[str, ...], settings: Settings, title: str | None, version: str, format: str, output: TextIO
) -> None:
    """Describe what each MODULE receives and sends as an AsyncAPI 3.0 document.

    Payloads come from the handlers' annotations, descriptions from their docstrings. The document contains only
    declared outputs (`to` in the decorator or in config.yml).
    """
    data = msgspec.json.encode(document(discover(modules), settings, title or " ".join(modules), version))
    in_json = msgspec.json.format(data, indent=2).decode() + "\n"
    click.echo(in_json if format == "json" else in_yaml(msgspec.json.decode(data)), output, nl=False)


@click.command()
@settings
def config(settings: Settings) -> None:
    """Print the resolved configuration, with secrets masked."""
    resolved = shown(settings)
    for name, queue in resolved.pop("queues").items():  # config.yml has them in one place
        resolved["consumers"][name] |= queue
    click.echo(in_yaml(resolved), nl=False)


def in_yaml(data: object) -> str:
    """Plain data as YAML, its keys in their order."""
    import yaml

    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
