"""Arguments and options that several commands share, and the way to the queue or broker that they name; no command."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import click
import msgspec

from ..brokers.broker import Broker, Brokers
from ..brokers.queues import is_users, queues, stats
from ..config.settings import Settings, load_settings
from ..duration import seconds
from ..errors import BrokerLost, ConfigurationError
from ..transport import check_name

NAMED = 20  # queues that an error names

Command = Callable[..., Any]


class Duration(click.ParamType[float]):
    """Seconds as a number or with a unit: 30, 30s, 5m."""

    name = "duration"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """Seconds; click says what is wrong otherwise."""
        try:
            return seconds(value)
        except ConfigurationError as error:
            self.fail(str(error), parameter, context)


MODULES = click.argument("modules", nargs=-1, metavar="[MODULE...]")  # what looks on takes none as well
SERVICES = click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
YES = click.option("--yes", is_flag=True, help="Do not ask.")
WAIT = click.option(
    "--wait", type=Duration(), help="Give up when broker or queue are not there after this time [default: never]."
)
GIVE_UP = click.option(
    "--wait", type=Duration(), default="10s", show_default=True, help="Give up on a broker after this time."
)
BROKER = click.option("--broker", metavar="URL", help="Use this broker instead of config.yml's default.")
CONFIG = click.option("--config", metavar="FILE", help="Configuration; else $MQASYNC_CONFIG or ./config.yml.")


def settings(command: Command) -> Command:
    """Add --config and --broker; the command gets the Settings for both."""

    @functools.wraps(command)
    def with_settings(*, config: str | None, broker: str | None, **others: Any) -> Any:
        return command(settings=load_settings(config, broker), **others)

    return CONFIG(BROKER(with_settings))


def queue(command: Command) -> Command:
    """Add --exchange and --id."""

    @functools.wraps(command)
    def with_queue(*, exchange: str, id: str, **others: Any) -> Any:
        return command(exchange=check_name("exchange", exchange), id=check_name("id", id), **others)

    with_id = click.option("--id", required=True, help="Who produces, or which queue is consumed.")(with_queue)
    return click.option("--exchange", required=True, help="The exchange by name.")(with_id)


class Place(msgspec.Struct, frozen=True):
    """The queue (exchange, id), on the broker that the configuration says."""

    exchange: str
    id: str
    settings: Settings
    wait: float | None

    def __str__(self) -> str:
        return f"{self.exchange}/{self.id}"

    @asynccontextmanager
    async def opened(self, *ids: str) -> AsyncIterator[Broker]:
        """The broker, connected. Raises ConfigurationError unless it has the queue, or that of one of the `ids`.

        And BrokerLost if it does not answer in time.
        """
        async with opened(self.settings, self.exchange, self.wait) as broker:
            for id in (self.id, *ids):
                if await stats(broker, self.exchange, id):
                    break
            else:
                raise ConfigurationError(f"there is no queue {self} on {broker.address}{await _there_are(broker)}")
            yield broker


async def _there_are(broker: Broker) -> str:
    there = await queues(broker)
    names = [f"{exchange}/{id}" for exchange, id in sorted(there or []) if is_users(exchange, id)]
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return "" if there is None else f"; there are: {', '.join(names[:NAMED]) or 'none'}{more}"


def place(command: Command) -> Command:
    """Add the arguments EXCHANGE and ID, --config, --broker and --wait; the command gets a Place for all of them."""

    @functools.wraps(command)
    def with_place(*, exchange: str, id: str, settings: Settings, wait: float | None, **others: Any) -> Any:
        where = Place(check_name("exchange", exchange), check_name("id", id), settings, wait)
        return command(place=where, **others)

    return click.argument("exchange")(click.argument("id")(WAIT(settings(with_place))))


@asynccontextmanager
async def opened(settings: Settings, exchange: str, wait: float | None) -> AsyncIterator[Broker]:
    """The broker of that exchange, connected. Raises BrokerLost if it does not answer in time."""
    brokers = Brokers(settings)
    try:
        broker = brokers.route(exchange)
        await reach(broker, wait)
        yield broker
    finally:
        await brokers.close()


async def reach(broker: Broker, wait: float | None) -> None:
    """Return when `broker` answers. Raises BrokerLost if it has not within `wait` seconds, BrokerRefused."""
    try:
        async with asyncio.timeout(wait):
            await broker.connected()
    except TimeoutError:
        raise BrokerLost(f"no answer from {broker.address} within {wait:g} s") from None


def confirm(question: str) -> None:
    """Ask; anything but yes ends the command. Raises ConfigurationError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} There is no terminal to ask at: say --yes")
    click.confirm(question, abort=True)
