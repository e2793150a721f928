"""`mqasync status`: what is in the queues and who works on them; it disturbs nobody."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from ..brokers.broker import Brokers
from ..brokers.queues import Queue
from ..config.settings import Settings
from ..observe.report import UNHEARD_SECONDS, Report, Reports
from ..operate.overview import QueueOverview, overview, queues_of
from ..service.discovery import discover
from .arguments import GIVE_UP, MODULES, reach, settings
from .loop import run as run_loop
from .output import JSON, age, say, show, table

HEAR_SECONDS = UNHEARD_SECONDS + 0.5  # until every process has reported
REFRESH_SECONDS = 1.0


@click.command()
@MODULES
@settings
@JSON
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C: a live screen, or a JSON line a second.")
@GIVE_UP
def status(modules: tuple[str, ...], settings: Settings, as_json: bool, watch: bool, wait: float) -> None:
    """Show the queues of each MODULE, or all that the brokers tell of, and the processes that work on them.

    Per queue: messages waiting, delayed and dead, consumers, and, summed over the running processes since
    their start, messages a second, in hand, retried, buried, seconds since the oldest in hand was published,
    the last error. It listens for a few seconds to what the processes report.
    """
    run_loop(_Status(settings, modules, as_json, wait).run(watch))


class _Status:
    """One run of the command."""

    def __init__(self, settings: Settings, modules: Sequence[str], as_json: bool, wait: float) -> None:
        consumers = [consumer for service in discover(modules) for consumer in service.consumers] if modules else []
        self._queues: list[Queue] = [(consumer.exchange, consumer.id) for consumer in consumers]
        self._all = not modules
        used = {settings.broker_of(exchange) for exchange, _ in self._queues}
        self._names = [name for name in settings.brokers if self._all or name in used]
        self._brokers = Brokers(settings)
        self._as_json = as_json
        self._wait = wait

    async def run(self, watch: bool) -> None:
        """Show it once, or again and again."""
        try:
            brokers = [self._brokers.named(name) for name in self._names]
            for one in brokers:
                await reach(one, self._wait)
            async with Reports(brokers) as reports:
                if watch:
                    await self._watch(reports)
                else:
                    await asyncio.sleep(HEAR_SECONDS)
                    self._print(*await self._look(reports.now()))
        finally:
            await self._brokers.close()

    async def _look(self, reports: list[Report]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        queues = await queues_of(self._brokers, self._names) if self._all else self._queues
        if not self._all:
            reports = [report for report in reports if report.health.consumers.keys() & {f"{e}/{i}" for e, i in queues}]
        shown = await overview(self._brokers, queues, reports)
        several = len(self._brokers.settings.brokers) > 1
        rows = [_queue_row(queue, several) for queue in shown if self._all or (queue.exchange, queue.id) in queues]
        return rows, [_process_row(report) for report in reports]

    def _print(self, queues: list[dict[str, Any]], processes: list[dict[str, Any]]) -> None:
        if self._as_json:
            say(msgspec.json.encode({"queues": queues, "processes": processes}))
        else:
            show(readable(queues), False, "no queues")
            say("")
            show(readable(processes), False, "no process reports that it is running")

    async def _watch(self, reports: Reports) -> None:
        if self._as_json or not sys.stdout.isatty():
            while True:
                self._print(*await self._look(reports.now()))
                await asyncio.sleep(REFRESH_SECONDS)
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        logging.disable(logging.WARNING)  # it would go across the screen, which shows the same
        with Live(screen=True, auto_refresh=False) as screen:
            while True:
                queues, processes = await self._look(reports.now())
                states = "\n".join(f"{broker.address}: {broker.state}" for broker in self._brokers.opened.values())
                title = Text(f"mqasync status  {time.strftime('%H:%M:%S')}  Ctrl-C ends\n{states}\n")
                screen.update(Group(title, table(readable(queues)), "", table(readable(processes))), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)


def readable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their durations as people say them."""
    durations = ("oldest", "up")
    return [{name: age(value) if value and name in durations else value for name, value in row.items()} for row in rows]


def _queue_row(queue: QueueOverview, several: bool) -> dict[str, Any]:
    return {
        "queue": f"{queue.exchange}/{queue.id}",
        **({"broker": queue.broker} if several else {}),
        "waiting": queue.waiting,
        "delayed": queue.delayed,
        "dead": queue.dead,
        "consumers": queue.consumers,
        "per second": queue.rate,
        "in hand": queue.held,
        "retried": queue.retried,
        "buried": queue.buried,
        "oldest": queue.oldest,
        "last error": queue.last_error,
    }


def _process_row(report: Report) -> dict[str, Any]:
    consumers = report.health.consumers.values()
    brokers = report.health.brokers.values()
    return {
        "process": f"{report.host}:{report.pid}",
        "services": ", ".join(report.services),
        "up": report.up,
        "per second": report.rate,
        "handled": sum(consumer.handled for consumer in consumers),
        "published": sum(producer.published for producer in report.health.producers.values()),
        "in hand": sum(consumer.held for consumer in consumers),
        "reconnects": report.reconnects,
        "brokers": ", ".join(sorted({broker.state for broker in brokers})),
        "failing producers": "; ".join(f"{name}: {error}" for name, error in report.health.failing.items()),
    }
