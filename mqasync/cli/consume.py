"""`mqasync consume`: the messages of a queue as JSON lines on stdout; it is a consumer like any other."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import click
import msgspec

from ..core.channel import Channel
from ..handler import Binding
from ..handlers.step import Step
from .arguments import NAMES, WAIT, Command, Place, connected, count, settings, together
from .lines import write_line

LOOK = 1000  # messages that --no-ack holds at most
GRACE = 0.1  # seconds; what a reader who sleeps has not taken by then is put back


class Printer(Binding):
    """Prints each body; `enough` is set after `count` of them, or when nobody reads any more."""

    def __init__(self, exchange: str, id: str, count: int | None, acknowledge: bool) -> None:
        held = 1 if acknowledge else count or LOOK
        prefetch = min(held * 100, count or held * 100) if acknowledge else held
        super().__init__(exchange=exchange, id=id, concurrency=held, prefetch=prefetch)
        self._left = count
        self._acknowledge = acknowledge
        self._writing = asyncio.Lock()
        self.enough = asyncio.Event()

    async def process(self, message: bytes) -> None:
        """Print one body on one line; a return acknowledges it."""
        if self.enough.is_set():
            await _until_drained()
        try:
            async with self._writing:
                await write_line(on_one_line(message))
        except BrokenPipeError:
            self.enough.set()
            await _until_drained()
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.enough.set()
        if not self._acknowledge:
            await _until_drained()


async def _until_drained() -> None:
    """Wait for the drain, which puts the message back."""
    await asyncio.Event().wait()


def on_one_line(body: bytes) -> bytes:
    """A JSON body without line breaks; any other body as a JSON string."""
    try:
        return msgspec.json.format(body, indent=-1)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return msgspec.json.encode(body.decode("utf-8", "replace"))


@click.command(cls=Command)
@together("place", Place, *NAMES, settings, WAIT)
@count(type=click.IntRange(min=1), help="End after this many messages.")
@click.option("--no-ack", is_flag=True, help="Only look: put every message back at the end.")
async def consume(place: Place, count: int | None, no_ack: bool) -> None:
    """Print the messages of the queue (exchange, id), a JSON line each, and acknowledge them."""
    printer = Printer(place.exchange, place.id, count, not no_ack)
    with suppress(asyncio.CancelledError):
        async with connected(place.settings, place.wait, place.exchange) as brokers:
            channel = Channel(Step(printer, brokers.publish, {}), brokers.route(place.exchange))
            enough = asyncio.create_task(printer.enough.wait())
            try:
                working = channel.start()
                await asyncio.wait({working, enough}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    await working
            finally:
                enough.cancel()
                await channel.drain(GRACE)
