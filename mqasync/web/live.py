"""Live: what the processes on the brokers do now, as data and as a picture for the page; nothing is served here."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from ..drawing import svg
from ..errors import BrokerRefused
from ..layout import Edge
from ..masking import masked
from ..overview import QueueOverview, overview
from ..pipeline import CONSUMER, EXCHANGE, PRODUCER, Node, Pipeline
from ..report import Report, Reports, output
from ..runner import Runner

FRESH_SECONDS = 1.0  # so long the brokers are not asked again, whoever looks


class Picture(msgspec.Struct, frozen=True):
    """One moment: the queues, the processes and the graph of all that they do."""

    queues: list[QueueOverview]
    processes: list[dict[str, Any]]
    svg: str


class Live:
    """`await Live(runner).now()` while the runner works; listening begins with the first and ends with the runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._reports: Reports | None = None
        self._asking = asyncio.Lock()
        self._asked = -FRESH_SECONDS
        self._picture = Picture([], [], "")

    async def now(self) -> Picture:
        """What is going on, at most FRESH_SECONDS old."""
        async with self._asking:
            if self._runner.started and time.monotonic() - self._asked > FRESH_SECONDS:
                await self._listen()
                reports = self._reports.now() if self._reports else []
                queues = await overview(self._runner.brokers, (), reports)
                self._picture = Picture(queues, [process(report) for report in reports], self._draw(reports, queues))
                self._asked = time.monotonic()
        return self._picture

    async def _listen(self) -> None:
        """To what processes report; where a broker does not allow it, the page stays empty and the service works."""
        if self._reports is None:
            reports = Reports(list(self._runner.brokers.opened.values()))
            try:
                self._reports = await self._runner.enter(reports)
            except BrokerRefused:
                self._reports = reports

    def _draw(self, reports: Sequence[Report], queues: Sequence[QueueOverview]) -> str:
        settings = self._runner.settings
        nodes: dict[str, Node] = {}
        flows: dict[Edge, float] = defaultdict(float)  # messages a second

        def node(kind: str, exchange: str, id: str = "") -> str:
            one = Node(kind, exchange, id, settings.broker_of(exchange))
            return nodes.setdefault(one.key, one).key

        for report in reports:
            for name, producer in report.health.producers.items():
                source, target = node(PRODUCER, producer.exchange, producer.id), node(EXCHANGE, producer.exchange)
                flows[source, target] += report.rates.get(name, 0.0)
            for name, consumer in report.health.consumers.items():
                own = node(CONSUMER, consumer.exchange, consumer.id)
                flows[node(EXCHANGE, consumer.exchange), own] += report.rates.get(name, 0.0)
                for to in {*consumer.to, *consumer.published}:
                    flows[own, node(EXCHANGE, to)] += report.rates.get(output(name, to), 0.0)
        brokers = {name: masked(url) for name, url in settings.brokers.items()}
        used = {one.broker for one in nodes.values()}
        graph = Pipeline(nodes, list(flows), {name: address for name, address in brokers.items() if name in used})
        notes = {f"{CONSUMER} {queue.exchange}/{queue.id}": note(queue) for queue in queues}
        return svg(graph, "mqasync", notes, {edge: f"{rate:,.1f}/s" for edge, rate in flows.items()})


def note(queue: QueueOverview) -> str:
    """What a consumer's box says of its queue."""
    parts = [(queue.waiting, "waiting"), (queue.delayed, "delayed"), (queue.dead, "dead")]
    return ", ".join(f"{count:,} {what}" for count, what in parts if count) or "empty"


def process(report: Report) -> dict[str, Any]:
    """One process for the page's table; addresses are masked in it already."""
    health = report.health
    return {
        "process": f"{report.host}:{report.pid}",
        "services": report.services,
        "up": max(0.0, time.time() - report.started),
        "rate": sum(report.rates.get(name, 0.0) for name in health.consumers),
        "reconnects": sum(broker.reconnects for broker in health.brokers.values()),
        "brokers": sorted({f"{broker.address}: {broker.state}" for broker in health.brokers.values()}),
    }
