"""A queue as a command line names it, EXCHANGE ID, and the way to it; no command, nothing is received."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import click
import msgspec

from ..broker import Broker, Brokers
from ..config import Settings, load_settings
from ..errors import ConfigurationError
from ..queues import is_users, queues, stats
from ..transport import check_name
from .options import WAIT, reach, shared

NAMED = 20  # queues that an error names


class Place(msgspec.Struct, frozen=True):
    """The queue (exchange, id), on the broker that the configuration says."""

    exchange: str
    id: str
    settings: Settings
    wait: float | None

    def __str__(self) -> str:
        return f"{self.exchange}/{self.id}"

    def opened(self) -> AbstractAsyncContextManager[Broker]:
        """The broker, connected. Raises BrokerLost if it does not answer in time."""
        return opened(self.settings, self.exchange, self.wait)


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


def place(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments EXCHANGE and ID, --config, --broker and --wait; the command gets a Place for all of them."""

    @functools.wraps(command)
    def with_place(
        *, exchange: str, id: str, config: str | None, broker: str | None, wait: float | None, **others: Any
    ) -> Any:
        check_name("exchange", exchange)
        check_name("id", id)
        return command(place=Place(exchange, id, load_settings(config, broker), wait), **others)

    with_options = click.argument("id")(WAIT(shared(with_place)))
    return click.argument("exchange")(with_options)


async def check_there(broker: Broker, exchange: str, *ids: str) -> None:
    """Raise ConfigurationError, naming the queues there are, unless there is a queue of one of the `ids`."""
    for id in ids:
        if await stats(broker, exchange, id):
            return
    there = await queues(broker)
    names = [f"{exchange}/{id}" for exchange, id in sorted(there or []) if is_users(exchange, id)]
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    there_are = "" if there is None else f"; there are: {', '.join(names[:NAMED]) or 'none'}{more}"
    raise ConfigurationError(f"there is no queue {exchange}/{ids[0]} on {broker.address}{there_are}")


YES = click.option("--yes", is_flag=True, help="Do not ask.")


def confirm(question: str) -> None:
    """Ask; anything but yes ends the command. Raises ConfigurationError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} There is no terminal to ask at: say --yes")
    click.confirm(question, abort=True)
