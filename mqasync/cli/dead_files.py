"""`mqasync dead export` and `mqasync dead import`: dead letters as JSON lines, to a file and back."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import BinaryIO

import click
import msgspec

from ..broker import Broker
from ..dead import revived
from ..errors import ConfigurationError
from ..letters import Choice, from_record, to_record
from ..message import Message
from ..publisher import unfit
from ..reading import PORTION, Reading
from ..transport import DEAD, Delivery
from .dead_options import choice, deal
from .lines import read_lines, write_line
from .loop import result_of
from .output import counted
from .place import Place, check_there, place

Write = Callable[[Sequence[bytes]], Awaitable[None]]


@click.command()
@place
@choice()
@click.option("-o", "--output", metavar="FILE", help="Write to this new file, not to stdout.")
@click.option("--drop", is_flag=True, help="Drop each dead letter once it is on the disk; only with --output.")
def export(place: Place, choice: Choice, output: str | None, drop: bool) -> None:
    """Print dead letters of the queue (EXCHANGE, ID), all of each as a JSON line; without --drop they stay there."""
    if drop and output is None:
        raise ConfigurationError("--drop needs --output FILE: what goes to a pipe may get lost on its way")
    if output is None:
        with suppress(BrokenPipeError):  # nobody reads any more
            result_of(_export(place, choice, to_stdout, drop, bar=False))
        return
    with new(output) as file:
        result_of(_export(place, choice, to_file(file), drop, bar=True))


def new(path: str) -> BinaryIO:
    """A file that was not there before. Raises ConfigurationError."""
    try:
        return open(path, "xb")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}") from error


async def to_stdout(lines: Sequence[bytes]) -> None:
    """Return when they were read, if stdout is a pipe."""
    for line in lines:
        await write_line(line)


def to_file(file: BinaryIO) -> Write:
    """A function that returns when the lines are on the disk."""

    async def write(lines: Sequence[bytes]) -> None:
        file.writelines(line + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())

    return write


async def _export(place: Place, choice: Choice, write: Write, drop: bool, bar: bool) -> None:
    async def each(broker: Broker, reading: Reading, found: list[Delivery]) -> None:
        await write([msgspec.json.encode(to_record(delivery.message)) for delivery in found])
        if drop:
            await reading.take(found)

    await deal(place, choice, "exported and dropped" if drop else "exported", each, taking=drop, bar=bar)


@click.command("import")
@place
@click.argument("file", type=click.File("rb"), default="-", metavar="[FILE | -]")
@click.option("--replay", is_flag=True, help="Put them into the queue itself, to be handled.")
def import_(place: Place, file: BinaryIO, replay: bool) -> None:
    """Put what `mqasync dead export` has written back among the dead letters of the queue (EXCHANGE, ID).

    Run twice, it puts everything there twice, with the same message ids.
    """
    result_of(_import(place, file, replay))


async def _import(place: Place, file: BinaryIO, replay: bool) -> None:
    id = place.id if replay else place.id + DEAD
    async with place.opened() as broker:
        await check_there(broker, place.exchange, place.id)
        await broker.call(lambda transport: transport.declare(place.exchange, place.id + DEAD, bound=False))
        count = 0
        messages: list[Message] = []
        try:
            async for number, line in read_lines(file):
                messages.append(await _checked(broker, number, line, replay))
                if len(messages) >= PORTION:
                    await _send(broker, place.exchange, id, messages)
                    count += len(messages)
                    messages = []
            await _send(broker, place.exchange, id, messages)
            count += len(messages)
        finally:
            to = place if replay else f"the dead letters of {place}"
            click.echo(f"imported {counted(count, 'message')} to {to}", err=True)


async def _checked(broker: Broker, number: int, line: bytes, replay: bool) -> Message:
    """The message of one line. Raises ConfigurationError, naming the line."""
    try:
        message = from_record(line)
    except ConfigurationError as error:
        raise ConfigurationError(f"line {number}: {error}") from error
    message = revived(message) if replay else message
    if problem := unfit(message, (await broker.connected()).features.max_bytes):
        raise ConfigurationError(f"line {number}: {problem}")
    return message


async def _send(broker: Broker, exchange: str, id: str, messages: list[Message]) -> None:
    if messages:
        await broker.call(lambda transport: transport.send(exchange, id, messages))
