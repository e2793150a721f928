"""The command `mqasync`: its group and how errors end it; the commands are in the files beside this one.

Exit codes: 0 done or drained, 1 a service or broker failed for good, 2 the user's mistake.
"""

from collections.abc import Sequence
from typing import Any

import click

from .. import __version__
from ..errors import BrokerRefused, ConfigurationError, MessageTooLarge, MqasyncError
from ..handlers.failure import describe
from ..observe.logs import set_levels, set_up
from ..service.loop import finish
from .check import check
from .dead import dead
from .documents import config, docs, graph
from .messages import consume, process, produce
from .new import new
from .queues import peek, purge, tap
from .run import run
from .status import status

MISTAKES = (ConfigurationError, BrokerRefused, MessageTooLarge)


class Commands(click.Group):
    """Reports every error of mqasync in one sentence, and an error of a service with the service's traceback."""

    def main(self, *args: Any, **named: Any) -> Any:
        """Run, and end the process in any case."""
        try:
            return super().main(*args, **named)
        except SystemExit as end:
            finish(end.code if isinstance(end.code, int) else int(end.code is not None))
            raise

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Read the options before the command; for an unknown one, say where those of a command belong."""
        try:
            return super().parse_args(context, args)
        except click.NoSuchOption as error:
            hint = "Options of a command follow its name: mqasync COMMAND --option"
            raise click.UsageError(f"{error.format_message()} {hint}", context) from None

    def invoke(self, context: click.Context) -> Any:
        """Run the command; turn errors into exit codes."""
        try:
            return super().invoke(context)
        except MqasyncError as error:
            place = ".".join(getattr(error, "keys", ()))
            context.obj.end(f"{place and place + ': '}{error}")
            context.exit(2 if isinstance(error, MISTAKES) else 1)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            context.obj.end(describe(error), error)
            context.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mqasync")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "human", "json"]),
    default="auto",
    envvar="MQASYNC_LOG",
    help="Format of the log on stderr; auto: JSON lines for `run` if stderr is not a terminal. Also $MQASYNC_LOG.",
)
@click.option(
    "--log-level",
    "log_levels",
    multiple=True,
    metavar="[LOGGER=]LEVEL",
    envvar="MQASYNC_LOG_LEVEL",
    help="debug, info (the default), warning, error or critical; for one logger: aio_pika=debug. Repeatable."
    " Also $MQASYNC_LOG_LEVEL, several separated by spaces.",
)
@click.pass_context
def main(context: click.Context, log_format: str, log_levels: Sequence[str]) -> None:
    """Asyncio microservices on existing message brokers."""
    context.obj = set_up(log_format, context.invoked_subcommand)
    set_levels(log_levels)


for command in (run, produce, consume, config, status, check, dead, peek, purge, tap, process, graph, docs, new):
    main.add_command(command)
