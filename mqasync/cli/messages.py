"""`mqasync produce`, `consume` and `process`: messages by hand, in, out, through one handler; only JSON."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, BinaryIO

import click
import msgspec

from ..config.settings import Settings
from ..core.channel import Channel
from ..core.feed import waiting_for_queues
from ..errors import ConfigurationError, MqasyncError, Reject
from ..handler import Binding, where
from ..handlers.attempt import STOP_SECONDS, Attempt, Outcome
from ..handlers.codec import not_json
from ..handlers.current_message import Handling
from ..handlers.outbox import Outbox
from ..handlers.signature import of_consumer
from ..handlers.step import Step
from ..message import HIGHEST, Message
from ..observe.logs import their_trace
from ..operate.browse import to_record
from ..service.discovery import Service, discover
from ..service.lifespan import Lifespan
from ..service.loop import run
from .arguments import NAMES, WAIT, Command, Place, connected, count, json_or_file, settings, there_are, together
from .lines import read_lines, write_line
from .output import JSON, counted, show

LOOK = 1000  # messages that --no-ack holds at most
GRACE = 0.1  # seconds; what a slow reader has not taken by then is requeued


@click.command(cls=Command)
@together("place", Place, *NAMES, settings, WAIT)
@click.option("--key", help="Key of messages that belong together; the routing key where there is one.")
@click.option("--priority", type=click.IntRange(0, HIGHEST), default=0, help="A higher one is received first.")
@click.argument("source", default="-", metavar="[JSON | - | FILE.jsonl]", callback=json_or_file)
async def produce(place: Place, key: str | None, priority: int, source: BinaryIO | bytes) -> None:
    """Publish one JSON value, or JSON lines from stdin (-, the default) or from a file."""
    lines = alone(source) if isinstance(source, bytes) else read_lines(source)
    async with connected(place.settings, place.wait, place.exchange) as brokers:
        hint = functools.partial(there_are, brokers.route(place.exchange))
        publish, confirmed, started = waiting_for_queues(brokers.publish, place.wait, hint), 0, time.monotonic()

        async def put(body: bytes) -> None:
            nonlocal confirmed
            message = Message(body=body, exchange=place.exchange, producer=place.id, key=key, priority=priority)
            await publish(message)
            confirmed += 1

        problem = ""
        try:
            async with Outbox() as outbox:
                async for number, line in lines:
                    if problem := not_json(line):  # what comes before it is published
                        problem = f"line {number} is not JSON: {problem}"
                        break
                    await outbox.put(put(line.strip()))
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


class Printer(Binding):
    """Prints each body; `enough` is set after `count` of them, or when nobody reads any more."""

    def __init__(self, exchange: str, id: str, count: int | None, acknowledge: bool) -> None:
        held = 1 if acknowledge else count or LOOK
        prefetch = min(held * 100, count or held * 100) if acknowledge else held
        super().__init__(exchange=exchange, id=id, concurrency=held, prefetch=prefetch)
        self._left = count or -1
        self._acknowledge = acknowledge
        self._writing = asyncio.Lock()
        self.enough = asyncio.Event()

    async def process(self, message: bytes) -> None:
        """Print one body on one line; a return acknowledges it."""
        try:
            if not self.enough.is_set():
                async with self._writing:
                    await write_line(on_one_line(message))
                self._left -= 1
                if self._left == 0:
                    self.enough.set()
                if self._acknowledge:
                    return
        except BrokenPipeError:
            self.enough.set()
        await asyncio.Event().wait()  # for the drain, which puts the message back


def on_one_line(body: bytes) -> bytes:
    """A JSON body without line breaks; any other body as a JSON string."""
    try:
        return msgspec.json.format(body, indent=-1)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return msgspec.json.encode(body.decode("utf-8", "replace"))


@click.command(cls=Command)
@together("place", Place, *NAMES, settings, WAIT)
@count(type=click.IntRange(min=1), help="End after this many messages.")
@click.option("--no-ack", is_flag=True, help="Only look: requeue every message at the end.")
async def consume(place: Place, count: int | None, no_ack: bool) -> None:
    """Print and acknowledge the messages of the queue (exchange, id), one JSON line each."""
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


def named(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Headers by name, from name=text."""
    for value in values:
        if not all(value.partition("=")[:2]):
            raise click.BadParameter(f"{value!r} is not of the form NAME=TEXT")
    return dict(value.split("=", 1) for value in values)


@click.command()
@click.argument("name", metavar="MODULE:HANDLER")
@settings
@WAIT
@click.option(
    "--msg",
    required=True,
    metavar="JSON|-|FILE",
    callback=json_or_file,
    help="The body; for a handler of batches JSON lines, which are one batch.",
)
@click.option(
    "--header",
    "headers",
    metavar="NAME=TEXT",
    multiple=True,
    callback=named,
    help="A header of the message; repeatable.",
)
@click.option("--key", help="The key of the message.")
@click.option("--publish", is_flag=True, help="Publish the handler's outputs once it has returned.")
@JSON
def process(
    name: str,
    settings: Settings,
    wait: float | None,
    msg: BinaryIO | bytes,
    headers: dict[str, str],
    key: str | None,
    publish: bool,
    as_json: bool,
) -> None:
    """Run one message through one handler, as `run` does, and print its outputs, unpublished."""
    service, consumer = only_consumer(name)
    consumer = settings.configured(consumer)
    body = msg if isinstance(msg, bytes) else msg.read()
    bodies = [line for line in body.splitlines() if line.strip()] if of_consumer(consumer.handler).batch else [body]
    messages = [
        Message(body=body, exchange=consumer.exchange, producer="process", headers=headers, key=key) for body in bodies
    ]
    outputs = run(_process(service, consumer, settings, messages), grace=0.0)
    rows = [to_record(output) if as_json else row(output) for output in outputs]
    show(rows, as_json, "the handler has no output")
    if publish and outputs:
        run(_publish(outputs, settings, wait))


def only_consumer(name: str) -> tuple[Service, Binding]:
    """The one consumer that `name` means, and its module. Raises ConfigurationError."""
    found = [(service, consumer) for service in discover([name]) for consumer in service.consumers]
    if not found:
        raise ConfigurationError(f"{name!r} is a producer, which takes no message; `mqasync run {name}` runs it")
    if len(found) > 1:
        names = ", ".join(f"{service.name}:{consumer.handler.__name__}" for service, consumer in found)
        raise ConfigurationError(f"{name!r} has {len(found)} handlers; name one of them: {names}")
    return found[0]


async def _process(service: Service, consumer: Binding, settings: Settings, messages: list[Message]) -> list[Message]:
    """The handler's outputs for them, not published."""
    outputs: list[Message] = []

    async def collect(message: Message) -> None:
        outputs.append(message)

    lifespan = Lifespan(service, settings)
    try:
        step = Step(consumer, collect, await lifespan.open())
        handling = Handling(consumer.exchange, consumer.id, messages)
        outcome = await Attempt(step.run, handling, where(consumer.handler), lifespan.context.copy()).end()
    finally:
        await lifespan.close(asyncio.get_running_loop().time() + STOP_SECONDS)
    if error := outcome.error:
        if not isinstance(error, Exception) or isinstance(error, Reject):  # of others the command itself shows it
            click.echo(their_trace(error), err=True)
        click.echo(f"{where(consumer.handler)} failed: {verdict(outcome, consumer)}", err=True)
        raise error if isinstance(error, Exception) else click.exceptions.Exit(1)
    return outputs


def verdict(outcome: Outcome, consumer: Binding) -> str:
    """What `run` would do after that."""
    if outcome.kind == "rejected":
        return "`run` would dead-letter the message immediately"
    if not consumer.options.retries:
        return "`run` would dead-letter the message, since retries=0"
    return f"`run` would retry the message (retries={consumer.options.retries}), then dead-letter it"


def row(message: Message) -> dict[str, Any]:
    """One line of the table."""
    return {
        "exchange": message.exchange,
        "id": message.id,
        "key": message.key,
        "headers": ", ".join(f"{name}={text}" for name, text in message.headers.items()) or None,
        "body": message.body.decode(errors="replace"),
    }


async def _publish(outputs: list[Message], settings: Settings, wait: float | None) -> None:
    """Return when the broker has all of them; where no queue is bound yet it waits."""
    async with connected(settings, wait, *{output.exchange for output in outputs}) as brokers, Outbox() as outbox:
        publish = waiting_for_queues(brokers.publish, wait)
        for output in outputs:
            await outbox.put(publish(output))
    click.echo(f"published {counted(len(outputs), 'message')}", err=True)
