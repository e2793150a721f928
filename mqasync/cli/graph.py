"""`mqasync graph`: the pipeline of modules as a picture; nothing is opened."""

from __future__ import annotations

import click

from ..config import load_settings
from ..discovery import discover
from ..drawing import DRAWINGS
from ..pipeline import pipeline
from .options import shared
from .output import OUTPUT, write


@click.command()
@click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
@shared
@click.option("--format", type=click.Choice(list(DRAWINGS)), default="mermaid", show_default=True)
@OUTPUT
def graph(modules: tuple[str, ...], config: str | None, broker: str | None, format: str, output: str) -> None:
    """Draw the producers, exchanges and consumers of each MODULE.

    Only declared outputs are drawn (`to` of the decorator or of config.yml): where a handler puts
    Out(..., exchange=...) is known when it runs. Dead letters are not drawn.
    """
    settings = load_settings(config, broker)
    write(DRAWINGS[format](pipeline(discover(modules), settings), " ".join(modules)), output)
