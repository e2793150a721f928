"""`mqasync produce`: JSON from the command line, a pipe or a file to an exchange; no format but JSON."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, BinaryIO

import click

from ..brokers.broker import Brokers
from ..config.settings import Settings
from ..core.source import waiting_for_queues
from ..errors import ConfigurationError, MqasyncError
from ..handlers.codec import not_json
from ..handlers.outbox import Outbox
from ..message import Message
from .arguments import WAIT, queue, reach, settings
from .lines import read_lines
from .loop import run as run_loop
from .output import counted

Lines = AsyncIterator[tuple[int, bytes]]


@click.command()
@queue
@settings
@WAIT
@click.argument("source", default="-", metavar="[JSON | - | FILE.jsonl]")
def produce(exchange: str, id: str, settings: Settings, wait: float | None, source: str) -> None:
    """Publish one JSON value, or JSON lines from stdin (-, the default) or from a file."""
    brokers = Brokers(settings)
    brokers.route(exchange)
    bar: AbstractContextManager[Any] = nullcontext()
    with ExitStack() as stack:
        if source == "-":
            lines = read_lines(sys.stdin.buffer)
        elif os.path.isfile(source):
            file = stack.enter_context(open(source, "rb"))
            lines, bar = read_lines(file), _progress(file)
        else:
            body = source.encode("utf-8", "surrogateescape")
            if problem := not_json(body):
                raise ConfigurationError(f"the argument is neither a file nor JSON: {problem}")
            lines = _alone(body)
        if not run_loop(_produce(brokers, exchange, id, wait, lines, bar)):
            raise MqasyncError("stopped before the end of the input")


async def _alone(body: bytes) -> Lines:
    yield 1, body


async def _produce(
    brokers: Brokers, exchange: str, id: str, wait: float | None, lines: Lines, progress: AbstractContextManager[Any]
) -> None:
    """Publish each line, many at a time, up to the first one that is not JSON."""
    publish, confirmed, started = waiting_for_queues(brokers.publish, wait), 0, time.monotonic()

    async def put(body: bytes) -> None:
        nonlocal confirmed
        await publish(Message(body=body, exchange=exchange, producer=id))
        confirmed += 1

    problem = ""
    try:
        await reach(brokers.route(exchange), wait)
        with progress as bar:
            async with Outbox() as outbox:
                async for number, line in lines:
                    if problem := not_json(line):
                        problem = f"line {number} is not JSON: {problem}"
                        break
                    await outbox.put(put(line.strip()))
                    if bar:
                        bar.update(len(line) + 1)
    finally:
        await brokers.close()
        elapsed = time.monotonic() - started
        rate = f"{confirmed / elapsed:,.0f}/s"
        click.echo(f"published {counted(confirmed, 'message')} to {exchange} in {elapsed:.1f} s ({rate})", err=True)
    if problem:
        raise ConfigurationError(problem)


def _progress(file: BinaryIO) -> AbstractContextManager[Any]:
    """A progress bar where a person looks on."""
    if not sys.stderr.isatty():
        return nullcontext()
    size = os.fstat(file.fileno()).st_size
    return click.progressbar(length=size, label="publishing", file=sys.stderr)
