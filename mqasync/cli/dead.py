"""`mqasync dead`: dead letters listed, shown, replayed, edited, dropped, exported and imported; none is made here."""

import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, BinaryIO

import click
import msgspec

from ..brokers.broker import Broker
from ..brokers.publisher import unfit
from ..complaints import printable
from ..core.dead_letter import PREFIX, dead_lettered_at, revived
from ..errors import ConfigurationError, MqasyncError
from ..handlers.codec import not_json
from ..handlers.outbox import Outbox
from ..message import Message
from ..operate.browse import Choice, Reading, chosen, from_record, reading_of, replayed, to_record
from ..service.loop import run
from ..transport import DEAD, Delivery
from .arguments import YES, Command, Decorator, Place, confirm, duration, place, together
from .lines import read_lines, write_line
from .output import JSON, START, age, counted, start, table
from .output import show as show_rows

LETTER = "dead letter"
TIMES = ("dead-first-time", "dead-last-time")  # seconds since 1970
CHOICE = (
    click.option("--reason", default="", help="Only those with this error: rejected, ValueError, or a part of it."),
    duration("--older", help="Only those dead-lettered longer ago than this: 1h."),
    duration("--newer", help="Only those dead-lettered more recently than this."),
    click.option("--text", default="", help="Only those with this text in the body, the id or the error message."),
    click.option("--message", metavar="ID", default="", help="Only the one with this id; its beginning is enough."),
)

Each = Callable[[Broker, Reading, list[Delivery]], Awaitable[None]]


class Dead(click.Group):
    """Its commands may be coroutine functions."""

    command_class = Command


@click.group(cls=Dead)
def dead() -> None:
    """Look at the dead letters of a queue, replay, edit, move or drop them.

    Dead letters that are in flight to another process are not seen. Those only looked at are requeued at the end.
    """


def choice(limit: int | None = None) -> Decorator:
    """Add the options that choose dead letters; the command gets a Choice. `limit` is the default of --limit."""
    most = click.option(
        "-n", "--limit", type=click.IntRange(min=1), default=limit, show_default=True, help="At most this many."
    )
    return together("choice", Choice, *CHOICE, most)


# the way to them


async def deal(
    place: Place, choice: Choice, verb: str, each: Each, what: str = LETTER, keep: bool = False, back: bool = False
) -> int:
    """Do `each` with what is meant, a few at a time; say in the end, also an early one, how many; return that.

    `what`: the dead letters of `place`, or else its messages. With `keep` they stay, so all have to be held.
    Raises ConfigurationError where there is no such queue: with `back` the one they came from has to be there.
    Without `verb` only what was not looked at is said.
    """
    id, count = place.id + DEAD if what == LETTER else place.id, 0
    try:
        async with place.opened(*(() if back else (id,))) as broker:
            async with reading_of(broker, place.exchange, id, choice, keep) as reading:
                async for found in chosen(reading, choice):
                    await each(broker, reading, found)
                    count += len(found)
    finally:
        if count and verb:
            click.echo(f"{verb} {counted(count, what)} of {place}", err=True)
    if not count and verb:
        click.echo(none(choice, what), err=True)
    if choice.limit is not None and count >= choice.limit:
        if reading.there > count:
            click.echo(f"{count:,} of {counted(reading.there, what)}; see -n", err=True)
    elif reading.seen < reading.there:
        why = "no more fit into memory" if reading.full else "the others are in flight to another process"
        click.echo(f"looked at {reading.seen:,} of {counted(reading.there, what)}: {why}", err=True)
    return count


async def take(broker: Broker, reading: Reading, found: list[Delivery]) -> None:
    """They are gone for good."""
    await reading.take(found)


async def messages_of(place: Place, choice: Choice, what: str = LETTER, back: bool = False) -> list[Message]:
    """The messages that are meant, requeued already."""
    messages: list[Message] = []

    async def each(broker: Broker, reading: Reading, found: list[Delivery]) -> None:
        messages.extend(delivery.message for delivery in found)

    await deal(place, choice, "", each, what, keep=True, back=back)
    return messages


def none(choice: Choice, what: str = LETTER) -> str:
    """What to say when nothing was found."""
    return f"no {what}s" if choice.everything else f"no {what} matches"


# looking at them


@dead.command("list")
@place
@choice(limit=100)
@JSON
async def list_(place: Place, choice: Choice, as_json: bool) -> None:
    """List the dead letters of the queue (EXCHANGE, ID), oldest first."""
    messages = await messages_of(place, choice)
    show_rows([to_record(message) if as_json else row(message) for message in messages], as_json, none(choice))


@dead.command()
@place
@choice(limit=1)
@JSON
async def show(place: Place, choice: Choice, as_json: bool) -> None:
    """Show everything about a dead letter of the queue (EXCHANGE, ID): headers, traceback, body."""
    messages = await messages_of(place, choice)
    if as_json or not messages:
        return show_rows([to_record(message) for message in messages], as_json, none(choice))
    for message in messages:
        click.echo("\n".join(printable(line) for line in lines(message)))


def row(message: Message) -> dict[str, Any]:
    """One line of the list."""
    headers = message.headers
    return {
        "id": message.id,
        "age": age(time.time() - dead_lettered_at(message)),
        "attempts": int(headers.get("dead-attempts", message.attempt)),
        "reason": headers.get("dead-reason"),
        "error": " ".join(headers.get("dead-message", "").split())[:START],
        "body": start(message.body),
    }


def lines(message: Message) -> list[str]:
    """One dead letter in full: its producer, when and why it was dead-lettered, headers, traceback and body."""
    since = dead_lettered_at(message)
    headers = {name: text for name, text in message.headers.items() if name not in TIMES}
    trace = headers.pop("dead-traceback", "")
    facts = {
        "message": message.id,
        "published": f"{moment(message.time)} by {message.producer or '-'} to {message.exchange}",
        "dead_lettered": f"{moment(since)}, {age(time.time() - since)} ago",
        **({} if message.key is None else {"key": message.key}),
        **{name if name.startswith(PREFIX) else f"header {name}": text for name, text in headers.items()},
    }
    shown = table([{"what": name, "text": text} for name, text in facts.items()])[1:]
    for name, text in (("traceback", trace), ("body", pretty(message.body))):
        if text:
            shown += [name, *(f"  {line}" for line in text.splitlines())]
    return [*shown, ""]


def pretty(body: bytes) -> str:
    """A JSON body, indented; any other body as text."""
    readable = body if not_json(body) else msgspec.json.format(body, indent=2)
    return readable.decode(errors="replace")


def moment(seconds: float) -> str:
    """A point in time, local, as people and ISO 8601 write it."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


# back to their queue, or away


@dead.command()
@place
@choice()
async def replay(place: Place, choice: Choice) -> None:
    """Move dead letters back to the queue (EXCHANGE, ID), to be handled again from the first attempt on.

    Queues of other ids do not get them. If this is killed half-way, run it again: nothing is lost, but the messages
    that it was moving may be handled twice, with the same message id.
    """

    async def each(broker: Broker, reading: Reading, found: list[Delivery]) -> None:
        await replayed(broker, place.exchange, place.id, reading, found)

    await deal(place, choice, "replayed", each, back=True)


@dead.command()
@place
@click.option("--message", metavar="ID", required=True, help="The one with this id; its beginning is enough.")
def edit(place: Place, message: str) -> None:
    """Open the body of a dead letter of the queue (EXCHANGE, ID) in $EDITOR, and replay it as it was saved.

    If nothing is changed or saved, the dead letter stays as it is.
    """
    letter, *_ = run(messages_of(place, Choice(message=message), back=True))
    body = edited(letter)
    if body is None:
        return click.echo("unchanged", err=True)

    async def each(broker: Broker, reading: Reading, found: list[Delivery]) -> None:
        for delivery in found:
            delivery.message = msgspec.structs.replace(delivery.message, body=body)
        await replayed(broker, place.exchange, place.id, reading, found)

    try:
        if not run(deal(place, Choice(ids={letter.id}), "", each, back=True)):
            raise MqasyncError(f"the dead letter {letter.id} is gone or in flight elsewhere: nothing was replayed")
    except Exception:
        click.echo(body)  # the user's work
        raise
    click.echo(f"replayed {letter.id} to {place} with its new body", err=True)


def edited(letter: Message) -> bytes | None:
    """The new body, on one line; None if nothing was changed."""
    before = pretty(letter.body)
    if before.encode() != letter.body and not_json(letter.body):
        raise ConfigurationError(f"the body of {letter.id} is not text; `mqasync dead export` writes it in base64")
    text = click.edit(before, extension=".json")
    while text is not None and (problem := not_json(text.encode())):
        click.echo(f"not JSON: {problem}", err=True)
        click.confirm("Edit it again?", default=True, abort=True)
        text = click.edit(text, extension=".json", require_save=False)
    if text is None or text.strip() == before.strip():
        return None
    return msgspec.json.format(text.encode(), indent=-1)


@dead.command()
@place
@choice()
@YES
def drop(place: Place, choice: Choice, yes: bool) -> None:
    """Delete dead letters of the queue (EXCHANGE, ID) for good, after asking for confirmation."""
    if not yes:  # those that come while the user thinks are not meant
        messages = run(messages_of(place, choice))
        if not messages:
            return click.echo(none(choice), err=True)
        choice = msgspec.structs.replace(choice, ids={message.id for message in messages})
        confirm(f"Drop {counted(len(choice.ids or ()), LETTER)} of {place} for good?")
    run(deal(place, choice, "dropped", take))


# to a file, and back


@dead.command()
@place
@choice()
@click.option(
    "-o", "--output", type=click.File("xb"), default="-", metavar="FILE", help="Write to this new file, not to stdout."
)
@click.option("--drop", is_flag=True, help="Drop each dead letter once it is on the disk; only with --output.")
async def export(place: Place, choice: Choice, output: BinaryIO, drop: bool) -> None:
    """Print dead letters of the queue (EXCHANGE, ID) in full, one JSON line each; without --drop they stay there."""
    to_stdout = output.fileno() == sys.stdout.fileno()
    if drop and to_stdout:
        raise ConfigurationError("--drop needs --output FILE: what is written to a pipe may get lost")

    async def each(broker: Broker, reading: Reading, found: list[Delivery]) -> None:
        lines = [msgspec.json.encode(to_record(delivery.message)) for delivery in found]
        if to_stdout:
            for line in lines:
                await write_line(line)  # if that is a pipe, it is read now
        else:
            output.writelines(line + b"\n" for line in lines)
            output.flush()
            os.fsync(output.fileno())
        if drop:
            await reading.take(found)

    with suppress(BrokenPipeError):  # nobody reads any more
        verb = "exported and dropped" if drop else "exported"
        await deal(place, choice, verb, each, keep=not drop)


@dead.command("import")
@place
@click.argument("file", type=click.File("rb"), default="-", metavar="[FILE | -]")
@click.option("--replay", is_flag=True, help="Put them into the queue itself, to be handled again.")
async def import_(place: Place, file: BinaryIO, replay: bool) -> None:
    """Put what `mqasync dead export` has written back into the dead-letter queue of (EXCHANGE, ID).

    If you run it twice, each message is there twice, with the same message id.
    """
    id, to = (place.id, place) if replay else (place.id + DEAD, f"the dead-letter queue of {place}")
    count = 0
    async with place.opened() as broker:
        await broker.call(lambda transport: transport.declare(place.exchange, place.id + DEAD, bound=False))
        most = (await broker.connected()).features.max_bytes

        async def put(message: Message) -> None:
            nonlocal count
            await broker.call(lambda transport: transport.send(place.exchange, id, [message]))
            count += 1

        try:
            async with Outbox() as outbox:
                async for number, line in read_lines(file):
                    await outbox.put(put(_checked(number, line, replay, most)))
        finally:
            click.echo(f"imported {counted(count, 'message')} to {to}", err=True)


def _checked(number: int, line: bytes, replay: bool, most: int) -> Message:
    """The message of one line. Raises ConfigurationError, naming the line."""
    try:
        message = from_record(line)
    except ConfigurationError as error:
        raise ConfigurationError(f"line {number}: {error}") from error
    message = revived(message) if replay else message
    if problem := unfit(message, most):
        raise ConfigurationError(f"line {number}: {problem}")
    return message
