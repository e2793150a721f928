"""Live: what the processes on the brokers do now, as data and as a picture for the page; nothing is served here."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import msgspec

from ..config.settings import Settings
from ..describe.drawing import svg
from ..describe.pipeline import CONSUMER, EXCHANGE, PRODUCER, Node, joined
from ..observe.report import Report, Reports, output
from ..operate.overview import QueueRow, overview, reported
from ..service.runner import Runner

FRESH_SECONDS = 1.0  # so long the brokers are not asked again, whoever looks


class Moment(msgspec.Struct, frozen=True):
    """What the brokers and processes said at one time."""

    queues: list[QueueRow] = []
    reports: list[Report] = []


class Live:
    """`await Live(runner).now()` while the runner works; listening begins with the first and ends with the runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._reports: Reports | None = None
        self._asking = asyncio.Lock()
        self._asked = -FRESH_SECONDS
        self._moment = self._drawn = Moment()
        self._svg = ""

    async def now(self) -> Moment:
        """What is going on, at most FRESH_SECONDS old."""
        async with self._asking:
            if self._runner.started and time.monotonic() - self._asked > FRESH_SECONDS:
                reports = await self._heard()
                queues = await overview(self._runner.brokers, reported(reports), reports)
                self._moment = Moment(queues, reports)
                self._asked = time.monotonic()
        return self._moment

    async def _heard(self) -> list[Report]:
        """This process, which needs no broker for it, and the others as far as the brokers tell of them."""
        if not self._reports:
            self._reports = await self._runner.enter(Reports(self._runner.brokers.opened.values()))
        own = self._runner.reporter.report()
        others = [report for report in self._reports.now() if report.process != own.process]
        return sorted([own, *others], key=lambda report: (report.host, report.pid))

    async def svg(self) -> str:
        """All that the processes do, as a picture of that moment. Raises ConfigurationError without Graphviz."""
        moment = await self.now()
        if moment is not self._drawn:
            self._svg = await asyncio.to_thread(draw, moment, self._runner.settings)
            self._drawn = moment
        return self._svg


def draw(moment: Moment, settings: Settings) -> str:
    """Everybody's producers, exchanges and consumers, with messages a second."""
    flows: dict[tuple[Node, Node], float] = defaultdict(float)  # messages a second

    def node(kind: str, exchange: str, id: str = "") -> Node:
        return Node(kind, exchange, id, settings.broker_of(exchange))

    for report in moment.reports:
        for name, producer in report.health.producers.items():
            source, target = node(PRODUCER, producer.exchange, producer.id), node(EXCHANGE, producer.exchange)
            flows[source, target] += report.rates.get(name, 0.0)
        for name, consumer in report.health.consumers.items():
            own = node(CONSUMER, consumer.exchange, consumer.id)
            flows[node(EXCHANGE, consumer.exchange), own] += report.rates.get(name, 0.0)
            for to in {*consumer.to, *consumer.published}:
                flows[own, node(EXCHANGE, to)] += report.rates.get(output(name, to), 0.0)
    notes = {f"{CONSUMER} {queue.queue}": note(queue) for queue in moment.queues}
    captions = {(source.key, target.key): f"{rate:,.1f}/s" for (source, target), rate in flows.items()}
    return svg(joined(list(flows), settings), "mqasync", notes, captions)


def note(queue: QueueRow) -> str:
    """What a consumer's box says of its queue."""
    if queue.waiting is None:
        return "not known"
    parts = [(queue.waiting, "waiting"), (queue.delayed, "delayed"), (queue.dead, "dead")]
    return ", ".join(f"{count:,} {what}" for count, what in parts if count) or "empty"
