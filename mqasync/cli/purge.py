"""`mqasync purge`: what waits in a queue away for good, when the user has said yes; the queue stays."""

from __future__ import annotations

import click

from ..brokers.queues import stats
from ..operate.browse import FEW, Reading
from ..service.loop import run
from .arguments import YES, Place, confirm, place
from .output import counted


@click.command()
@place
@YES
def purge(place: Place, yes: bool) -> None:
    """Throw away what waits in the queue (EXCHANGE, ID) at this moment, after a question that says how many.

    Not purged are messages that a consumer holds, that are delayed (a later attempt) or that come meanwhile, and
    the dead letters: for those there is `mqasync dead drop`.
    """
    if not yes:
        waiting = run(_waiting(place))
        if not waiting:
            return click.echo(f"no message waits in {place}", err=True)
        confirm(f"Purge {counted(waiting, 'message')} of {place} for good?")
    run(_purge(place))


async def _waiting(place: Place) -> int:
    async with place.opened() as broker:
        found = await stats(broker, place.exchange, place.id)
        return found.waiting if found else 0


async def _purge(place: Place) -> None:
    count = 0
    try:
        async with place.opened() as broker, Reading(broker, place.exchange, place.id, held=FEW) as reading:
            async for found in reading.portions():
                await reading.take(found)
                count += len(found)
    finally:
        click.echo(f"purged {counted(count, 'message')} of {place}", err=True)
