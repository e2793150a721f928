"""Arguments and options that several commands share, and the way to the queue or broker that they name; no command."""

import asyncio
import functools
import inspect
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

import click
import msgspec

from ..brokers.broker import Broker, Brokers
from ..brokers.queues import is_users, queues, stats
from ..config.settings import Settings, load_settings
from ..duration import seconds
from ..errors import BrokerLost, ConfigurationError
from ..handlers.codec import not_json
from ..service.discovery import discover
from ..service.loop import run
from ..transport import check_name

NAMED = 20  # queues that an error names

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]


class Command(click.Command):
    """A command that may be a coroutine function: it runs in the single event loop, with its own way to end."""

    def invoke(self, context: click.Context) -> Any:
        """Run it."""
        result = super().invoke(context)
        return run(result) if inspect.iscoroutine(result) else result


def together(name: str, make: Callable[..., Any], *parameters: Decorator) -> Decorator:
    """A decorator that adds `parameters` to a command, which gets as `name` what `make` makes of them."""
    taken = inspect.signature(make).parameters

    def add(command: Function) -> Function:
        @functools.wraps(command)
        def with_it(**given: Any) -> Any:
            own = {parameter: given.pop(parameter) for parameter in taken if parameter in given}
            return command(**{name: make(**own)}, **given)

        result: Function = with_it
        for parameter in reversed(parameters):
            result = parameter(result)
        return result

    return add


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else seconds(value)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None


def _name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    return check_name(str(parameter.name), value)


def json_or_file(context: click.Context, parameter: click.Parameter, value: str) -> BinaryIO | bytes:
    """Stdin for "-", the file of that name, which is closed with the command, or the JSON value that `value` is."""
    if value == "-":
        return sys.stdin.buffer
    if os.path.isfile(value):
        return context.with_resource(open(value, "rb"))
    body = value.encode("utf-8", "surrogateescape")
    if problem := not_json(body):
        what = "the argument" if isinstance(parameter, click.Argument) else parameter.opts[0]
        word = isinstance(parameter, click.Argument) and re.fullmatch(r"[\w-]+", value)
        hint = f"; text in JSON has quotes: '\"{value}\"', an exchange is an option: --exchange {value}" if word else ""
        raise ConfigurationError(f"{what} is neither a file nor JSON: {problem}{hint}")
    return body


duration = functools.partial(click.option, metavar="DURATION", callback=_seconds)
"""An option that takes seconds as a number or with a unit: 30, 30s, 5m."""
count = functools.partial(click.option, "-n", "--count", show_default=True)
"""The option that says how many messages."""

SERVICES = click.argument(
    "services",
    nargs=-1,
    metavar="[MODULE...]",
    callback=lambda context, parameter, names: discover(names) if names else [],
)
MODULES = click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
YES = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
WAIT = duration("--wait", help="Give up if the broker or the queue is not there after this time [default: never].")
GIVE_UP = duration("--wait", default="10s", show_default=True, help="Give up on a broker after this time.")
BROKER = click.option("--broker", metavar="URL", help="Use this broker instead of config.yml's default.")
FILE = "Configuration file [default: $MQASYNC_CONFIG or ./config.yml]."
CONFIG = click.option("--config", "path", metavar="FILE", help=FILE)
EXCHANGE = click.argument("exchange", callback=_name)
ID = click.argument("id", callback=_name)
NAMES = (
    click.option("--exchange", required=True, callback=_name, help="Name of the exchange."),
    click.option("--id", required=True, callback=_name, help="Id of the producer, or of the queue to consume."),
)

settings = together("settings", load_settings, CONFIG, BROKER)
"""Adds --config and --broker; the command gets the Settings for both."""


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
        async with connected(self.settings, self.wait, self.exchange) as brokers:
            broker = brokers.route(self.exchange)
            for id in (*ids, self.id):  # of which what others made may be gone
                if await stats(broker, self.exchange, id):
                    break
            else:
                raise ConfigurationError(f"there is no queue {self} on {broker.address}{await there_are(broker)}")
            yield broker


async def there_are(broker: Broker) -> str:
    """The queues that a user may have meant, as the end of a sentence; nothing if the broker does not list them."""
    there = await queues(broker)
    names = [f"{exchange}/{id}" for exchange, id in sorted(there or []) if is_users(exchange, id)]
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return "" if there is None else f"; queues: {', '.join(names[:NAMED]) or 'none'}{more}"


place = together("place", Place, EXCHANGE, ID, settings, WAIT)
"""Adds the arguments EXCHANGE and ID, --config, --broker and --wait; the command gets a Place for them."""


@asynccontextmanager
async def connected(settings: Settings, wait: float | None, *exchanges: str) -> AsyncIterator[Brokers]:
    """The brokers, closed at the end; those that carry the `exchanges` answer.

    Raises BrokerLost if one has not within `wait` seconds, BrokerRefused, ConfigurationError.
    """
    brokers = Brokers(settings)
    try:
        for exchange in exchanges:
            await reach(brokers.route(exchange), wait)
        yield brokers
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
    """Ask; anything but yes ends the command. Raises ConfigurationError if stdin is not a terminal."""
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} stdin is not a terminal, so confirm with --yes")
    click.confirm(question, abort=True)
