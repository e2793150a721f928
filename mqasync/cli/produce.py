"""`mqasync produce`: JSON from the command line, a pipe or a file to an exchange; no format but JSON."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import BinaryIO

import click

from ..core.source import waiting_for_queues
from ..errors import ConfigurationError, MqasyncError
from ..handlers.codec import not_json
from ..handlers.outbox import Outbox
from ..message import Message
from .arguments import NAMES, WAIT, Command, Place, connected, json_or_file, settings, together
from .lines import read_lines
from .output import counted, progress


@click.command(cls=Command)
@together("place", Place, *NAMES, settings, WAIT)
@click.argument("source", default="-", metavar="[JSON | - | FILE.jsonl]", callback=json_or_file)
async def produce(place: Place, source: BinaryIO | bytes) -> None:
    """Publish one JSON value, or JSON lines from stdin (-, the default) or from a file."""
    lines, size = (alone(source), 0) if isinstance(source, bytes) else (read_lines(source), size_of(source))
    async with connected(place.settings, place.wait, place.exchange) as brokers:
        publish, confirmed, started = waiting_for_queues(brokers.publish, place.wait), 0, time.monotonic()

        async def put(body: bytes) -> None:
            nonlocal confirmed
            await publish(Message(body=body, exchange=place.exchange, producer=place.id))
            confirmed += 1

        problem = ""
        try:
            with progress(size, "publishing", wanted=size > 0) as bar:
                async with Outbox() as outbox:
                    async for number, line in lines:
                        if problem := not_json(line):  # what comes before it is published
                            problem = f"line {number} is not JSON: {problem}"
                            break
                        await outbox.put(put(line.strip()))
                        bar.update(len(line) + 1)
        except asyncio.CancelledError:
            raise MqasyncError("stopped before the end of the input") from None
        finally:
            elapsed = time.monotonic() - started
            rate = f"{confirmed / elapsed:,.0f}/s"
            click.echo(
                f"published {counted(confirmed, 'message')} to {place.exchange} in {elapsed:.1f} s ({rate})", err=True
            )
    if problem:
        raise ConfigurationError(problem)


async def alone(body: bytes) -> AsyncIterator[tuple[int, bytes]]:
    """A value as the first and only line."""
    yield 1, body


def size_of(file: BinaryIO) -> int:
    """Bytes of a file; of a pipe 0, since nobody knows."""
    return os.fstat(file.fileno()).st_size
