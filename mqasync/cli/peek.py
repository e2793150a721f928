"""`mqasync peek`: the next messages of a queue for people to read; they stay in it."""

from __future__ import annotations

import time
from typing import Any

import click

from ..message import Message
from ..operate.browse import HELD, Reading
from ..operate.dead_letters import to_record
from .arguments import Place, place
from .loop import result_of
from .output import JSON, age, show, start


@click.command()
@place
@click.option(
    "-n", "--count", type=click.IntRange(1, HELD), default=10, show_default=True, help="So many messages at most."
)
@JSON
def peek(place: Place, count: int, as_json: bool) -> None:
    """Show the next messages of the queue (EXCHANGE, ID) and put them back.

    Its consumers do without them for that moment. What they hold, and what is delayed, is not seen. A broker may
    count each look as a return (RabbitMQ, NATS, SQS), and what has come back more than 10 times is buried.
    """
    messages = result_of(_peek(place, count))
    rows = [to_record(message) if as_json else row(message) for message in messages]
    show(rows, as_json, f"no message waits in {place}")


async def _peek(place: Place, count: int) -> list[Message]:
    messages: list[Message] = []
    async with place.opened() as broker:
        async with Reading(broker, place.exchange, place.id, count) as reading:
            async for found in reading.portions():
                messages += [delivery.message for delivery in found]
    return messages


def row(message: Message) -> dict[str, Any]:
    """One line of the table."""
    return {
        "id": message.id,
        "age": age(time.time() - message.time),
        "attempt": message.attempt,
        "returned": message.returned,
        "producer": message.producer or None,
        "key": message.key,
        "body": start(message.body),
    }
