"""`mqasync graph`: the pipeline of modules as a picture; nothing is opened."""

from __future__ import annotations

import click

from ..config.settings import Settings
from ..describe.drawing import DRAWINGS
from ..describe.pipeline import pipeline
from ..service.discovery import discover
from .arguments import MODULES, settings
from .output import OUTPUT, write


@click.command()
@MODULES
@settings
@click.option("--format", type=click.Choice(list(DRAWINGS)), default="mermaid", show_default=True)
@OUTPUT
def graph(modules: tuple[str, ...], settings: Settings, format: str, output: str) -> None:
    """Draw the producers, exchanges and consumers of each MODULE.

    Only declared outputs are drawn (`to` of the decorator or of config.yml): where a handler puts
    Out(..., exchange=...) is known when it runs. Dead letters are not drawn. For svg and
    html Graphviz has to be installed.
    """
    write(DRAWINGS[format](pipeline(discover(modules), settings), " ".join(modules)), output)
