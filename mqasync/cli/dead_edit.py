"""`mqasync dead edit`: the body of one dead letter in the user's editor, then replayed."""

from __future__ import annotations

import click
import msgspec

from ..codec import not_json
from ..dead import revived
from ..errors import ConfigurationError, MqasyncError
from ..letters import Choice, chosen
from ..message import Message
from ..reading import all_of
from .dead_look import pretty
from .dead_options import dead_letters
from .dead_replay import send
from .loop import result_of
from .place import Place, place


@click.command()
@place
@click.option("--message", metavar="ID", required=True, help="Which one; how its id begins is enough.")
def edit(place: Place, message: str) -> None:
    """Open the body of a dead letter of the queue (EXCHANGE, ID) in $EDITOR, and replay it as it was saved.

    The dead letter stays as it is when nothing is changed or saved.
    """
    letter = result_of(_replace(place, Choice(message=message), None))
    body = edited(letter)
    if body is None:
        return click.echo("unchanged", err=True)
    try:
        result_of(_replace(place, Choice(ids={letter.id}), body))
    except Exception:
        click.echo(body)  # the user's work
        raise
    click.echo(f"replayed {letter.id} to {place} with its new body", err=True)


def edited(letter: Message) -> bytes | None:
    """The new body, on one line; None if nothing was changed."""
    before = pretty(letter.body)
    if before.encode() != letter.body and not_json(letter.body):
        raise ConfigurationError(f"the body of {letter.id} is not text; `mqasync dead export` has it in base64")
    text = click.edit(before, extension=".json")
    while text is not None and (problem := not_json(text.encode())):
        click.echo(f"not JSON: {problem}", err=True)
        click.confirm("Edit it again?", default=True, abort=True)
        text = click.edit(text, extension=".json", require_save=False)
    if text is None or text.strip() == before.strip():
        return None
    return msgspec.json.format(text.encode(), indent=-1)


async def _replace(place: Place, choice: Choice, body: bytes | None) -> Message:
    """The letter that is meant; with `body` it is replayed with that one, all its copies are gone."""
    async with dead_letters(place, choice, back=True) as (broker, reading):
        found = await all_of(chosen(reading, choice))
        if not found:
            raise MqasyncError("the dead letter is not there any more, or somebody else holds it: nothing was replayed")
        if body is not None:
            message = msgspec.structs.replace(found[0].message, body=body)
            await send(broker, place, [revived(message)])
            await reading.take(found)
        return found[0].message
