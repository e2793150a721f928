"""The command `mqasync`: its group, how errors end it, how it logs; each command is a file beside this one.

Exit codes: 0 done or drained, 1 a service or broker failed for good, 2 the user's mistake.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from .. import __version__
from ..complaints import printable
from ..errors import BrokerRefused, ConfigurationError, MessageTooLarge, MqasyncError
from .check import check
from .config import config
from .consume import consume
from .dead import dead
from .docs import docs
from .graph import graph
from .peek import peek
from .process import process
from .produce import produce
from .purge import purge
from .run import run
from .status import status
from .tap import tap
from .traces import indented, their_trace

MISTAKES = (ConfigurationError, BrokerRefused, MessageTooLarge)


class Commands(click.Group):
    """Says every error of mqasync in one sentence; of a service's own error it shows the service's traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; turn errors into exit codes."""
        try:
            return super().invoke(context)
        except MqasyncError as error:
            place = ".".join(getattr(error, "keys", ()))
            click.echo(printable(f"mqasync: {place and place + ': '}{error}"), err=True)
            context.exit(2 if isinstance(error, MISTAKES) else 1)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            click.echo(their_trace(error), err=True)
            context.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mqasync")
def main() -> None:
    """Asyncio microservices over message queues that exist."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Unforgeable("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("aio_pika", "aiormq"):
        # the core says in one line what they say in many, and their DEBUG lines show bodies
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Unforgeable(logging.Formatter):
    """Keeps what a stranger put into an id or error text from looking like a log line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without its traceback, control characters escaped."""
        return printable(super().formatMessage(record))

    def formatException(self, info: Any) -> str:
        """The traceback, indented."""
        return indented(super().formatException(info))


COMMANDS: tuple[click.Command, ...] = (
    run,
    produce,
    consume,
    config,
    status,
    check,
    dead,
    peek,
    purge,
    tap,
    process,
    graph,
    docs,
)
for command in COMMANDS:
    main.add_command(command)
