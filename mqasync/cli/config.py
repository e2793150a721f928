"""`mqasync config`: the configuration as mqasync sees it, secrets masked; nothing is opened."""

from __future__ import annotations

import click

from ..config.settings import Settings
from ..masking import shown
from .arguments import settings


@click.command()
@settings
def config(settings: Settings) -> None:
    """Print the resolved configuration, secrets masked."""
    import yaml

    click.echo(yaml.safe_dump(shown(settings), sort_keys=False), nl=False)
