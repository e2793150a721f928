"""`mqasync dead replay`: dead letters back to the queue they came from, to that id alone."""

from __future__ import annotations

import click

from ..broker import Broker
from ..dead import revived
from ..letters import Choice
from ..message import Message
from ..reading import Reading
from ..transport import Delivery
from .dead_options import choice, deal
from .loop import result_of
from .place import Place, place


@click.command()
@place
@choice()
def replay(place: Place, choice: Choice) -> None:
    """Let the consumers of the queue (EXCHANGE, ID) handle its dead letters again, from the first attempt on.

    Other ids do not get them. Killed half-way it can be run again: what it had in hand may be handled twice, with
    the same message id, and nothing is lost.
    """

    async def each(broker: Broker, reading: Reading, found: list[Delivery]) -> None:
        await send(broker, place, [revived(delivery.message) for delivery in found])
        await reading.take(found)

    result_of(deal(place, choice, "replayed", each, back=True))


async def send(broker: Broker, place: Place, messages: list[Message]) -> None:
    """Return when the queue has them safely."""
    await broker.call(lambda transport: transport.send(place.exchange, place.id, messages))
