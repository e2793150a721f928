"""`mqasync dead drop`: dead letters away for good, when the user has said yes."""

from __future__ import annotations

import click
import msgspec

from ..broker import Broker
from ..letters import Choice, chosen
from ..reading import Reading
from ..transport import Delivery
from .dead_options import LETTER, choice, dead_letters, deal, none
from .loop import result_of
from .output import counted
from .place import YES, Place, confirm, place


@click.command()
@place
@choice()
@YES
def drop(place: Place, choice: Choice, yes: bool) -> None:
    """Throw away dead letters of the queue (EXCHANGE, ID), after a question that says how many."""
    if not yes:
        ids = result_of(_ids(place, choice))
        if not ids:
            return click.echo(none(choice), err=True)
        confirm(f"Drop {counted(len(ids), LETTER)} of {place} for good?")
        choice = msgspec.structs.replace(choice, ids=ids)

    async def each(broker: Broker, reading: Reading, found: list[Delivery]) -> None:
        await reading.take(found)

    result_of(deal(place, choice, "dropped", each))


async def _ids(place: Place, choice: Choice) -> set[str]:
    """Which letters are meant now; those that come while the user thinks are not."""
    ids: set[str] = set()
    async with dead_letters(place, choice) as (_, reading):
        async for found in chosen(reading, choice):
            ids |= {delivery.message.id for delivery in found}
    return ids
