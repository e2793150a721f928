"""`mqasync dead`: the group; each of its commands is in a dead_ file beside this one."""

from __future__ import annotations

import click

from .dead_drop import drop
from .dead_edit import edit
from .dead_files import export, import_
from .dead_look import list_, show
from .dead_replay import replay


@click.group()
def dead() -> None:
    """Look at the dead letters of a queue, replay, edit, move or drop them.

    What another process holds at the moment is not seen, and what is looked at here is put back at the end.
    """


for command in (list_, show, replay, edit, export, import_, drop):
    dead.add_command(command)
