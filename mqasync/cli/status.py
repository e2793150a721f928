"""`mqasync status`: what is in the queues and which processes work on them; it changes nothing."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import click
import msgspec

from ..brokers.broker import Brokers
from ..brokers.queues import Queue
from ..config.settings import Settings
from ..observe.report import UNHEARD_SECONDS, Report, Reports
from ..operate.overview import known, overview, process_row, reported
from ..service.discovery import Service
from .arguments import GIVE_UP, SERVICES, Command, connected, reach, settings
from .output import JSON, age, show

HEAR_SECONDS = UNHEARD_SECONDS + 0.5  # until every process has reported
REFRESH_SECONDS = 1.0

Rows = list[dict[str, Any]]


@click.command(cls=Command)
@SERVICES
@settings
@JSON
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C: a live screen, or a JSON line per second.")
@GIVE_UP
async def status(services: list[Service], settings: Settings, as_json: bool, watch: bool, wait: float) -> None:
    """Show the queues of each MODULE, or all that the brokers list, and the processes that work on them.

    Per queue: messages waiting, delayed and dead, consumers, and, summed over the running processes since their
    start, messages per second, in flight, retried, dead-lettered, seconds since the oldest message in flight was
    published, the last error. It listens to the reports of the processes for a few seconds.
    """
    consumed = {(consumer.exchange, consumer.id) for service in services for consumer in service.consumers}
    wanted = consumed if services else None
    names = settings.brokers.keys() if wanted is None else {settings.broker_of(exchange) for exchange, _ in wanted}
    async with connected(settings, None) as brokers:
        for name in settings.brokers:
            if name in names:
                await reach(brokers.named(name), wait)
        async with Reports(list(brokers.opened.values())) as reports:
            if not watch:
                await asyncio.sleep(HEAR_SECONDS)
                return show_once(*await look(brokers, wanted, reports.now()), as_json, brokers)
            with suppress(asyncio.CancelledError):
                while True:
                    rows = await look(brokers, wanted, reports.now())
                    if not as_json:
                        click.clear()
                        click.echo(f"mqasync status  {time.strftime('%H:%M:%S')}  Ctrl-C ends")
                        for broker in brokers.opened.values():
                            click.echo(f"{broker.address}: {broker.state}")
                    show_once(*rows, as_json, brokers)
                    await asyncio.sleep(REFRESH_SECONDS)


async def look(brokers: Brokers, wanted: set[Queue] | None, reports: list[Report]) -> tuple[Rows, Rows]:
    """A row for each queue, those that are `wanted` or all, and for each process that works on them."""
    if wanted is None:
        queues = await known(brokers) | reported(reports)
    else:
        queues, reports = wanted, [report for report in reports if wanted & reported([report])]
    rows = await overview(brokers, queues, reports)
    return msgspec.to_builtins(rows), [process_row(report) for report in reports]


def show_once(queues: Rows, processes: Rows, as_json: bool, brokers: Brokers) -> None:
    """Two tables, or a JSON object on one line."""
    if as_json:
        return click.echo(msgspec.json.encode({"queues": queues, "processes": processes}))
    addresses = ", ".join(broker.address for broker in brokers.opened.values())
    show([*map(readable, queues)], False, f"no queues on {addresses}")
    click.echo("")
    show([*map(readable, processes)], False, "no process reports that it is running")


def readable(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its durations as people say them."""
    return {name: age(value) if value and name in ("oldest", "up") else value for name, value in row.items()}
