"""A queue as a command line names it, EXCHANGE ID, and the way to it; no command, nothing is received."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from operator import methodcaller
from typing import Any

import click
import msgspec

from ..broker import Broker, Brokers
from ..config import Settings, load_settings
from ..errors import ConfigurationError
from ..overview import OURS
from ..transport import DEAD, check_name
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

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Broker]:
        """The broker, connected. Raises BrokerLost if it does not answer in time."""
        brokers = Brokers(self.settings)
        try:
            broker = brokers.route(self.exchange)
            await reach(broker, self.wait)
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


def is_users(exchange: str, id: str) -> bool:
    """Whether a queue is one that a user named: neither dead letters nor mqasync's own."""
    return not id.endswith(DEAD) and not exchange.startswith(OURS)


async def check_there(broker: Broker, exchange: str, *ids: str) -> None:
    """Raise ConfigurationError, naming the queues there are, unless there is a queue of one of the `ids`."""
    for id in ids:
        if await broker.call(methodcaller("stats", exchange, id)):
            return
    queues = await broker.call(lambda transport: transport.queues())
    names = [f"{exchange}/{id}" for exchange, id in sorted(queues or []) if is_users(exchange, id)]
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    there_are = "" if queues is None else f"; there are: {', '.join(names[:NAMED]) or 'none'}{more}"
    raise ConfigurationError(f"there is no queue {exchange}/{ids[0]} on {broker.address}{there_are}")


YES = click.option("--yes", is_flag=True, help="Do not ask.")


def confirm(question: str) -> None:
    """Ask; anything but yes ends the command. Raises ConfigurationError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} There is no terminal to ask at: say --yes")
    click.confirm(question, abort=True)
