"""The command `mqasync`: its group and how errors end it; each command is a file beside this one.

Exit codes: 0 done or drained, 1 a service or broker failed for good, 2 the user's mistake.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import click

from .. import __file__ as package
from .. import __version__
from ..complaints import describe
from ..errors import BrokerRefused, ConfigurationError, MessageTooLarge, MqasyncError
from .config import config
from .consume import consume
from .logs import set_up
from .produce import produce
from .run import run
from .status import status

MISTAKES = (ConfigurationError, BrokerRefused, MessageTooLarge)
# what leads from the command to a service's own code: mqasync, click, asyncio, importlib and uvloop
OURS = (*(os.path.dirname(file) for file in (package, click.__file__, os.__file__)), "<frozen", "uvloop")


class Commands(click.Group):
    """Says every error of mqasync in one sentence; of a service's own error it shows the service's traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; turn errors into exit codes."""
        try:
            return super().invoke(context)
        except MqasyncError as error:
            place = ".".join(getattr(error, "keys", ()))
            context.obj.end(f"{place and place + ': '}{error}")
            context.exit(2 if isinstance(error, MISTAKES) else 1)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            context.obj.end(describe(error), error.with_traceback(theirs(error)))
            context.exit(1)


def theirs(error: Exception) -> TracebackType | None:
    """The traceback from the service's own code on; all of it where none is in it."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename.startswith(OURS):
        trace = trace.tb_next
    return trace if trace or isinstance(error, SyntaxError) else error.__traceback__


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mqasync")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "human", "json"]),
    default="auto",
    envvar="MQASYNC_LOG",
    help="The log on stderr; auto is human on a terminal and JSON lines elsewhere. Also $MQASYNC_LOG.",
)
@click.pass_context
def main(context: click.Context, log_format: str) -> None:
    """Asyncio microservices over message queues that exist."""
    context.obj = set_up(log_format)


for command in (run, produce, consume, config, status):
    main.add_command(command)
