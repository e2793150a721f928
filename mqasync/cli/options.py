"""Options and argument types that several commands share, and what --wait means; no command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import click

from ..broker import Broker
from ..duration import seconds
from ..errors import BrokerLost, ConfigurationError


class Duration(click.ParamType[float]):
    """Seconds as a number or with a unit: 30, 30s, 5m."""

    name = "duration"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """Seconds; click says what is wrong otherwise."""
        try:
            return seconds(value)
        except ConfigurationError as error:
            self.fail(str(error), parameter, context)


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --config and --broker."""
    command = click.option("--broker", metavar="URL", help="Use this broker instead of config.yml's default.")(command)
    return click.option("--config", metavar="FILE", help="Configuration; else $MQASYNC_CONFIG or ./config.yml.")(
        command
    )


def queue(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --exchange and --id."""
    command = click.option("--id", required=True, help="Who produces, or which queue is consumed.")(command)
    return click.option("--exchange", required=True, help="The exchange by name.")(command)


WAIT = click.option(
    "--wait",
    type=Duration(),
    help="Give up when broker or queue are not there after this time [default: never].",
)


GIVE_UP = click.option(
    "--wait", type=Duration(), default="10s", show_default=True, help="Give up on a broker after this time."
)
MODULES = click.argument("modules", nargs=-1, metavar="[MODULE...]")  # what looks on takes none as well


async def reach(broker: Broker, wait: float | None) -> None:
    """Return when `broker` answers. Raises BrokerLost if it has not within `wait` seconds, BrokerRefused."""
    try:
        async with asyncio.timeout(wait):
            await broker.connected()
    except TimeoutError:
        raise BrokerLost(f"no answer from {broker.address} within {wait:g} s") from None
