"""`mqasync peek`: the next messages of a queue for people to read; they stay in it."""

from __future__ import annotations

import time
from typing import Any

import click

from ..message import Message
from ..operate.browse import HELD, Reading, all_of
from ..operate.dead_letters import to_record
from .arguments import Command, Place, count, place
from .output import JSON, age, show, start


@click.command(cls=Command)
@place
@count(type=click.IntRange(1, HELD), default=10, help="So many messages at most.")
@JSON
async def peek(place: Place, count: int, as_json: bool) -> None:
    """Show the next messages of the queue (EXCHANGE, ID) and put them back.

    Its consumers do without them for that moment. What they hold, and what is delayed, is not seen. A broker may
    count each look as a return (RabbitMQ, NATS, SQS), and what has come back more than 10 times is buried.
    """
    async with place.opened() as broker, Reading(broker, place.exchange, place.id, count) as reading:
        messages = [delivery.message for delivery in await all_of(reading.portions())]
    rows = [to_record(message) if as_json else row(message) for message in messages]
    show(rows, as_json, f"no message waits in {place}")


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
