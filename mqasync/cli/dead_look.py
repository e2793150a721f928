"""`mqasync dead list` and `mqasync dead show`: dead letters for people to read; they stay where they are."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click
import msgspec

from ..codec import not_json
from ..complaints import printable
from ..dead import PREFIX, buried_at
from ..letters import Choice, chosen, to_record
from ..message import Message
from ..reading import Reading
from .dead_options import choice, dead_letters, none, tell_rest
from .loop import result_of
from .output import JSON, START, age, say, start
from .output import show as show_rows
from .place import Place, place


@click.command("list")
@place
@choice(limit=100)
@JSON
def list_(place: Place, choice: Choice, as_json: bool) -> None:
    """A line for each dead letter of the queue (EXCHANGE, ID), oldest first."""
    messages, reading = result_of(found(place, choice))
    show_rows([to_record(message) if as_json else row(message) for message in messages], as_json, none(choice))
    tell_rest(reading, choice, len(messages))


@click.command()
@place
@choice(limit=1)
@JSON
def show(place: Place, choice: Choice, as_json: bool) -> None:
    """Everything about a dead letter of the queue (EXCHANGE, ID): headers, traceback, body."""
    messages, reading = result_of(found(place, choice))
    if as_json or not messages:
        show_rows([to_record(message) for message in messages], as_json, none(choice))
    for message in () if as_json else messages:
        say("\n".join(printable(line) for line in lines(message)))
    tell_rest(reading, choice, len(messages))


async def found(place: Place, choice: Choice) -> tuple[list[Message], Reading]:
    """The dead letters that are meant, put back already."""
    messages: list[Message] = []
    async with dead_letters(place, choice) as (_, reading):
        async for portion in chosen(reading, choice):
            messages += [delivery.message for delivery in portion]
    return messages, reading


def row(message: Message) -> dict[str, Any]:
    """One line of the list."""
    headers = message.headers
    return {
        "id": message.id,
        "age": age(time.time() - buried_at(message)),
        "attempts": int(headers.get("dead-attempts", message.attempt)),
        "reason": headers.get("dead-reason"),
        "error": " ".join(headers.get("dead-message", "").split())[:START],
        "body": start(message.body),
    }


def lines(message: Message) -> list[str]:
    """One dead letter in full."""
    headers = message.headers
    dead = {name.removeprefix(PREFIX): text for name, text in headers.items() if name.startswith(PREFIX)}
    facts = {
        "message": message.id,
        "published": f"{moment(message.time)} by {message.producer or '-'} to {message.exchange}",
        "buried": f"{moment(buried_at(message))}, {age(time.time() - buried_at(message))} ago"
        f" on {dead.get('host', '-')} as {dead.get('exchange', '-')}/{dead.get('id', '-')}",
        "attempts": dead.get("attempts"),
        "reason": dead.get("reason"),
        "exception": dead.get("exception"),
        "error": dead.get("message"),
        "own headers": dead.get("own-headers"),
        "key": message.key,
    }
    facts |= {f"header {name}": text for name, text in headers.items() if not name.startswith(PREFIX)}
    width = max(map(len, facts))
    shown = [f"{name:{width}}  {text}" for name, text in facts.items() if text is not None]
    shown += ["traceback", *(f"  {line}" for line in dead.get("traceback", "").splitlines())]
    return [*shown, "body", *(f"  {line}" for line in pretty(message.body).splitlines()), ""]


def pretty(body: bytes) -> str:
    """A JSON body, indented; any other body as text."""
    readable = body if not_json(body) else msgspec.json.format(body, indent=2)
    return readable.decode(errors="replace")


def moment(seconds: float) -> str:
    """A point in time, local, as people and ISO 8601 write it."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")
