"""`mqasync tap`: a live copy of an exchange on stdout, by a queue of its own that is gone at the end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import suppress

import click
import msgspec

from ..brokers.broker import Broker
from ..brokers.queues import is_tap, is_users, queues
from ..brokers.temporary import TAP, TemporaryQueue
from ..config.settings import Settings
from ..errors import ConfigurationError
from ..message import Message
from ..operate.dead_letters import to_record
from ..transport import Delivery
from .arguments import EXCHANGE, WAIT, Command, connected, count, settings
from .consume import on_one_line
from .lines import write_line


class Enough(Exception):
    """So many were printed as were asked for."""


@click.command(cls=Command)
@EXCHANGE
@settings
@WAIT
@count(type=click.IntRange(min=1), help="End after this many messages.")
@click.option("--full", is_flag=True, help="All of each message: id, time, producer, key, headers, body.")
async def tap(exchange: str, settings: Settings, wait: float | None, count: int | None, full: bool) -> None:
    """Print what is published to EXCHANGE from now on, a JSON line each, while its consumers get it as ever.

    The copy waits in a queue of its own on the broker, which grows while this reads slower than others publish. It
    is deleted at the end, or by the broker 60 seconds after a kill -9.
    """
    printed = 0

    async def take(deliveries: Sequence[Delivery]) -> None:
        nonlocal printed
        for delivery in deliveries:
            await write_line(line(delivery.message, full))
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
    """Raise ConfigurationError where no queue is bound to `exchange`, if the broker tells.

    With a tap alone a publish would succeed, and its only copy be gone with the tap.
    """
    there = await queues(broker)
    exchanges = {name for name, id in there or [] if is_users(name, id) and not is_tap(id)}
    if there is not None and exchange not in exchanges:
        there_are = ", ".join(sorted(exchanges)) or "none"
        raise ConfigurationError(f"no queue is bound to {exchange!r} on {broker.address}; exchanges: {there_are}")


def line(message: Message, full: bool) -> bytes:
    """One message as JSON on one line."""
    return msgspec.json.encode(to_record(message)) if full else on_one_line(message.body)
