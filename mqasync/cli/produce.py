"""`mqasync produce`: JSON from the command line, a pipe or a file to an exchange; no format but JSON."""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
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


@click.command()
@queue
@settings
@WAIT
@click.argument("source", default="-", metavar="[JSON | - | FILE.jsonl]")
def produce(exchange: str, id: str, settings: Settings, wait: float | None, source: str) -> None:
    """Publish one JSON value, or JSON lines from stdin (-, the default) or from a file."""
    brokers = Brokers(settings)
    brokers.route(exchange)
    job = _Job(brokers, exchange, id, wait)
    if source == "-":
        complete = run_loop(job.produce_lines(sys.stdin.buffer, nullcontext()))
    elif os.path.isfile(source):
        with open(source, "rb") as file:
            complete = run_loop(job.produce_lines(file, _progress(file)))
    else:
        body = source.encode("utf-8", "surrogateescape")
        if problem := not_json(body):
            raise ConfigurationError(f"the argument is neither a file nor JSON: {problem}")
        complete = run_loop(job.produce_one(body))
    if not complete:
        raise MqasyncError("stopped before the end of the input")


class _Job:
    """One run of the command."""

    def __init__(self, brokers: Brokers, exchange: str, id: str, wait: float | None) -> None:
        self._brokers = brokers
        self._wait = wait
        self._exchange, self._id = exchange, id
        self._publish = waiting_for_queues(brokers.publish, wait)
        self._confirmed = 0
        self._started = time.monotonic()

    async def produce_one(self, body: bytes) -> None:
        """Publish what the command line says."""
        try:
            await self._reach()
            await self._put(body)
        finally:
            await self._end()

    async def produce_lines(self, file: BinaryIO, progress: AbstractContextManager[Any]) -> None:
        """Publish each line of `file`, many at a time, up to the first one that is not JSON."""
        problem = ""
        try:
            await self._reach()
            with progress as bar:
                async with Outbox() as outbox:
                    async for number, line in read_lines(file):
                        if problem := not_json(line):
                            problem = f"line {number} is not JSON: {problem}"
                            break
                        await outbox.put(self._put(line.strip()))
                        if bar:
                            bar.update(len(line) + 1)
        finally:
            await self._end()
        if problem:
            raise ConfigurationError(problem)

    async def _reach(self) -> None:
        await reach(self._brokers.route(self._exchange), self._wait)

    async def _put(self, body: bytes) -> None:
        await self._publish(Message(body=body, exchange=self._exchange, producer=self._id))
        self._confirmed += 1

    async def _end(self) -> None:
        await self._brokers.close()
        elapsed = time.monotonic() - self._started
        rate = f"{self._confirmed / elapsed:,.0f}/s"
        published = counted(self._confirmed, "message")
        click.echo(f"published {published} to {self._exchange} in {elapsed:.1f} s ({rate})", err=True)


def _progress(file: BinaryIO) -> AbstractContextManager[Any]:
    """A progress bar where a person looks on."""
    if not sys.stderr.isatty():
        return nullcontext()
    size = os.fstat(file.fileno()).st_size
    return click.progressbar(length=size, label="publishing", file=sys.stderr)
