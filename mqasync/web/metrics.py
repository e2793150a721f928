"""What Prometheus scrapes, by prometheus-client: counts and gauges from Health, a histogram of the handlers' time."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..handler import Binding
from ..handlers.step import Run
from ..message import Message
from ..observe.health import Health
from ..operate.overview import QueueOverview

QUEUE = ("exchange", "id")
COUNTERS = {
    "handled": "Messages handled and acknowledged.",
    "failed": "Attempts to handle a message that did not succeed.",
    "retried": "Messages given back for a later attempt.",
    "buried": "Messages put among the dead letters.",
    "returned": "Messages that came back without having been settled: a process died, or a connection was lost.",
    "repeated": "Messages that dedup knew, and that were not handled again.",
}
DEPTHS = {
    "waiting": "Messages in the queue, to be received now.",
    "delayed": "Messages in the queue, to be received later.",
    "dead": "Dead letters of the queue.",
}


class Metrics:
    """The metrics of one process. `around` is for Runner: it times each message or batch."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "mqasync_handler_seconds",
            "Time from decoding a message or batch until its outputs were confirmed, failures included.",
            QUEUE,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)

    def around(self, consumer: Binding, run: Run) -> Run:
        """Step.run, timed."""
        observe = self._seconds.labels(consumer.exchange, consumer.id).observe

        async def timed(messages: Sequence[Message]) -> Any:
            started = time.perf_counter()
            try:
                return await run(messages)
            finally:
                observe(time.perf_counter() - started)

        return timed

    def text(self, health: Health, queues: Collection[QueueOverview]) -> bytes:
        """Everything in Prometheus' text format; `queues` are those of this process, as their brokers tell."""
        registry = CollectorRegistry()
        registry.register(_Now(health, queues))
        return generate_latest(self._registry) + generate_latest(registry)


class _Now:
    """A collector of what is known at this moment."""

    def __init__(self, health: Health, queues: Collection[QueueOverview]) -> None:
        self._health = health
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        consumers = self._health.consumers.values()
        for name, text in COUNTERS.items():
            family: Any = CounterMetricFamily(f"mqasync_messages_{name}", text, labels=QUEUE)
            for consumer in consumers:
                family.add_metric((consumer.exchange, consumer.id), getattr(consumer, name))
            yield family
        family = CounterMetricFamily(
            "mqasync_messages_published", "Messages that a producer or consumer put out.", labels=(*QUEUE, "to")
        )
        for consumer in consumers:
            for to, count in consumer.published.items():
                family.add_metric((consumer.exchange, consumer.id, to), count)
        for producer in self._health.producers.values():
            family.add_metric((producer.exchange, producer.id, producer.exchange), producer.published)
        yield family
        yield from self._gauges()

        failed = CounterMetricFamily(
            "mqasync_producer_runs_failed", "Runs of a producer that did not succeed.", labels=QUEUE
        )
        failing = GaugeMetricFamily("mqasync_producer_failing", "1 while its last run did not succeed.", labels=QUEUE)
        for producer in self._health.producers.values():
            failed.add_metric((producer.exchange, producer.id), producer.failed)
            failing.add_metric((producer.exchange, producer.id), producer.failing)
        yield from (failed, failing)

    def _gauges(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("mqasync_messages_in_flight", "Messages in hand, not settled.", labels=QUEUE)
        age = GaugeMetricFamily(
            "mqasync_lag_seconds", "Age of the oldest message in hand since it was first published.", labels=QUEUE
        )
        consuming = GaugeMetricFamily("mqasync_consuming", "1 while the broker sends messages here.", labels=QUEUE)
        for consumer in self._health.consumers.values():
            family.add_metric((consumer.exchange, consumer.id), consumer.held)
            age.add_metric((consumer.exchange, consumer.id), consumer.oldest or 0.0)
            consuming.add_metric((consumer.exchange, consumer.id), consumer.consuming)
        yield from (family, age, consuming)
        for name, text in DEPTHS.items():
            family = GaugeMetricFamily(f"mqasync_queue_{name}", text, labels=QUEUE)
            for queue in self._queues:
                if getattr(queue, name) is not None:
                    family.add_metric((queue.exchange, queue.id), getattr(queue, name))
            yield family
        connected = GaugeMetricFamily(
            "mqasync_broker_connected", "1 while the broker takes messages.", labels=("broker",)
        )
        reconnects = CounterMetricFamily(
            "mqasync_broker_reconnects", "Connections after the first.", labels=("broker",)
        )
        for name, broker in self._health.brokers.items():
            connected.add_metric((name,), broker.state == "connected")
            reconnects.add_metric((name,), broker.reconnects)
        yield from (connected, reconnects)
        yield CounterMetricFamily(
            "mqasync_event_loop_lags", "Times the event loop stood still for a second or more.", value=self._health.lags
        )
