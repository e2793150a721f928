"""`mqasync config`: the configuration as mqasync sees it, secrets masked; nothing is opened."""

from __future__ import annotations

import click

from ..config import load_settings
from ..masking import shown
from .options import shared


@click.command()
@shared
def config(config: str | None, broker: str | None) -> None:
    """Print the resolved configuration, secrets masked."""
    import yaml

    click.echo(yaml.safe_dump(shown(load_settings(config, broker)), sort_keys=False), nl=False)
