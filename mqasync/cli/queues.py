"""`mqasync peek`, `purge` and `tap`: what is in a queue or passes an exchange, for people to see."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress

import click
import msgspec

from ..brokers.broker import Broker
from ..brokers.queues import is_tap, is_users, queues, stats
from ..brokers.temporary import TAP, TemporaryQueue
from ..config.settings import Settings
from ..errors import ConfigurationError
from ..operate.browse import HELD, Choice, to_record
from ..service.loop import run
from ..transport import Delivery
from .arguments import EXCHANGE, WAIT, YES, Command, Place, confirm, connected, count, place, settings
from .dead import deal, messages_of, take
from .lines import write_line
from .messages import on_one_line
from .output import JSON, age, counted, show, start


@click.command(cls=Command)
@place
@count(type=click.IntRange(1, HELD), default=10, help="At most this many messages.")
@JSON
async def peek(place: Place, count: int, as_json: bool) -> None:
    """Show the next messages of the queue (EXCHANGE, ID) and requeue them.

    Its consumers do not get them meanwhile. Messages that are in flight or delayed are not seen. A broker may count
    each look as a delivery (RabbitMQ, NATS, SQS); a consumer replaces what was returned 10 times with a fresh copy.
    """
    messages = await messages_of(place, Choice(limit=count), what="message")
    table = [
        {
            "id": message.id,
            "age": age(time.time() - message.time),
            "attempt": message.attempt,
            "returned": message.returned,
            "producer": message.producer or None,
            "key": message.key,
            "body": start(message.body),
        }
        for message in messages
    ]
    show([*map(to_record, messages)] if as_json else table, as_json, f"no message waits in {place}")


@click.command()
@place
@YES
def purge(place: Place, yes: bool) -> None:
    """Delete the messages waiting in the queue (EXCHANGE, ID), after asking for confirmation.

    Messages that are in flight, delayed (for a later attempt) or published meanwhile are not purged, nor are
    dead letters: for those there is `mqasync dead drop`.
    """
    if not yes:
        waiting = run(_waiting(place))
        if not waiting:
            return click.echo(f"no message waits in {place}", err=True)
        confirm(f"Purge {counted(waiting, 'message')} of {place} for good?")
    run(deal(place, Choice(), "purged", take, what="message"))


async def _waiting(place: Place) -> int:
    async with place.opened() as broker:
        found = await stats(broker, place.exchange, place.id)
        return found.waiting if found else 0


class Enough(Exception):
    """So many were printed as were asked for."""


@click.command(cls=Command)
@EXCHANGE
@settings
@WAIT
@count(type=click.IntRange(min=1), help="End after this many messages.")
@click.option("--full", is_flag=True, help="Print each message in full: id, time, producer, key, headers, body.")
async def tap(exchange: str, settings: Settings, wait: float | None, count: int | None, full: bool) -> None:
    """Print the messages published to EXCHANGE from now on, one JSON line each.

    Its consumers get them as usual. The copies wait in a queue of their own on the broker, which grows while this
    command is slower than the producers. It is deleted at the end. After a kill -9 the broker deletes it within a
    minute or so; where the broker cannot, any running service does within some minutes.
    """
    printed = 0

    async def take(deliveries: Sequence[Delivery]) -> None:
        nonlocal printed
        for message in (delivery.message for delivery in deliveries):
            await write_line(msgspec.json.encode(to_record(message)) if full else on_one_line(message.body))
            printed += 1
            if printed == count:
                raise Enough

    with suppress(asyncio.CancelledError):
        async with connected(settings, wait, exchange) as brokers:
            broker = brokers.route(exchange)
            await check_bound(broker, exchange)
            async with TemporaryQueue(broker, exchange, f"{TAP}{uuid.uuid4().hex[:8]}", take) as queue:
                click.echo(f"tapping {exchange} as {queue.id}; Ctrl-C ends it", err=True)
                with suppress(Enough, BrokenPipeError):  # or nobody reads any more
                    await queue.working


async def check_bound(broker: Broker, exchange: str) -> None:
    """Raise ConfigurationError where no queue is bound to `exchange`, if the broker lists its queues.

    With a tap alone a publish would succeed, and its only copy be gone with the tap.
    """
    there = await queues(broker)
    exchanges = {name for name, id in there or [] if is_users(name, id) and not is_tap(id)}
    if there is not None and exchange not in exchanges:
        there_are = ", ".join(sorted(exchanges)) or "none"
        raise ConfigurationError(f"no queue is bound to {exchange!r} on {broker.address}; exchanges: {there_are}")
