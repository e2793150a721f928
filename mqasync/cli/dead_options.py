"""Which dead letters a command means, and the way to them; no command."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import click

from ..broker import Broker
from ..letters import Choice, chosen
from ..reading import FEW, HELD, Reading
from ..transport import DEAD, Delivery
from .options import Duration
from .output import counted
from .place import Place, check_there

LETTER = "dead letter"

Each = Callable[[Broker, Reading, list[Delivery]], Awaitable[None]]


def choice(limit: int | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that choose dead letters; the command gets a Choice. `limit` is the default of --limit."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_choice(
            *,
            reason: str,
            older: float | None,
            newer: float | None,
            text: str,
            message: str,
            limit: int | None,
            **others: Any,
        ) -> Any:
            chosen = Choice(reason=reason, older=older, newer=newer, text=text, message=message, limit=limit)
            return command(choice=chosen, **others)

        with_options: Callable[..., Any] = with_choice
        for option in reversed(options(limit)):
            with_options = option(with_options)
        return with_options

    return add


def options(limit: int | None) -> list[Callable[..., Any]]:
    """The options that choose dead letters."""
    return [
        click.option("--reason", default="", help="Those whose error is called so: rejected, ValueError, or a part."),
        click.option("--older", type=Duration(), help="Those buried longer ago than this: 1h."),
        click.option("--newer", type=Duration(), help="Those buried less long ago than this."),
        click.option("--text", default="", help="Those with this in body, id or what the error said."),
        click.option("--message", metavar="ID", default="", help="The one with this id; how it begins is enough."),
        click.option(
            "-n", "--limit", type=click.IntRange(min=1), default=limit, show_default=True, help="So many at most."
        ),
    ]


@asynccontextmanager
async def dead_letters(
    place: Place, choice: Choice, *, back: bool = False, held: int = HELD
) -> AsyncIterator[tuple[Broker, Reading]]:
    """The broker, and the dead letters of `place` being read, `held` at most.

    Raises ConfigurationError where there is no such queue: with `back` the one they came from has to be there.
    """
    async with place.opened() as broker:
        await check_there(broker, place.exchange, place.id, *(() if back else (place.id + DEAD,)))
        async with Reading(broker, place.exchange, place.id + DEAD, choice.reading_limit(), held) as reading:
            yield broker, reading


async def deal(
    place: Place, choice: Choice, verb: str, each: Each, *, taking: bool = True, back: bool = False, bar: bool = True
) -> None:
    """Do `each` with the letters that are meant, a few at a time, and say in the end, also an early one, how many.

    With `taking` they are gone afterwards, so that few have to be held. `back`: see dead_letters.
    """
    held = FEW if taking and choice.everything else HELD
    count = 0
    try:
        async with dead_letters(place, choice, back=back, held=held) as (broker, reading):
            with progress(reading, verb) if bar and sys.stderr.isatty() else nullcontext() as shown:
                async for found in chosen(reading, choice):
                    if found:
                        await each(broker, reading, found)
                    count += len(found)
                    if shown:
                        shown.update(reading.seen - shown.pos)
    finally:
        if count:
            click.echo(f"{verb} {counted(count, LETTER)} of {place}", err=True)
    if not count:
        click.echo(none(choice), err=True)
    tell_rest(reading, choice, count)


def progress(reading: Reading, label: str) -> AbstractContextManager[Any]:
    """A progress bar over what is read."""
    return click.progressbar(length=reading.most, label=label, file=sys.stderr)


def none(choice: Choice) -> str:
    """What to say when nothing was found."""
    return "no dead letters" if choice.everything else "no dead letter fits"


def tell_rest(reading: Reading, choice: Choice, count: int) -> None:
    """Say, beside the output, what was not looked at."""
    if choice.limit is not None and count >= choice.limit:
        if reading.there > count:
            click.echo(f"{count:,} of {reading.there:,} dead letters; see --limit", err=True)
    elif reading.seen < reading.there:
        why = "no more fit into memory" if reading.full else "somebody else holds the others"
        click.echo(f"looked at {reading.seen:,} of {reading.there:,} dead letters: {why}", err=True)
