"""What Prometheus scrapes, by prometheus-client: counts and gauges from Health, a histogram of the handlers' time."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..handler import Binding
from ..handlers.step import Run
from ..message import Message
from ..observe.report import ConsumerHealth, ProducerHealth, Report
from ..operate.overview import QueueRow

QUEUE = ("exchange", "id")
COUNTER: Any = CounterMetricFamily
GAUGE: Any = GaugeMetricFamily
# which kind, its name, where the value stands, and what it means
CONSUMERS = (
    (COUNTER, "messages_handled", "handled", "Messages handled and acknowledged."),
    (COUNTER, "messages_failed", "failed", "Failed attempts to handle a message."),
    (COUNTER, "messages_retried", "retried", "Messages requeued for a later attempt."),
    (COUNTER, "messages_dead_lettered", "dead_lettered", "Messages moved to the dead-letter queue."),
    (COUNTER, "messages_expired", "expired", "Messages dead-lettered because they were too old."),
    (COUNTER, "messages_returned", "returned", "Messages redelivered since a process or connection was lost."),
    (COUNTER, "messages_duplicate", "duplicates", "Duplicates found by dedup and not handled again."),
    (GAUGE, "messages_in_flight", "held", "Messages in flight, not acknowledged yet."),
    (GAUGE, "lag_seconds", "lag", "Age of the oldest message in flight since it was first published."),
    (GAUGE, "consuming", "consuming", "1 while the broker sends the queue's messages here."),
)
PRODUCERS = (
    (COUNTER, "producer_runs_failed", "failed", "Failed runs of a producer."),
    (GAUGE, "producer_failing", "failing", "1 if the producer's last run failed."),
)
QUEUES = (
    (GAUGE, "queue_waiting", "waiting", "Messages in the queue that can be received now."),
    (GAUGE, "queue_delayed", "delayed", "Messages in the queue that are delayed."),
    (GAUGE, "queue_dead", "dead", "Dead letters of the queue."),
)


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
        seconds = self._seconds.labels(consumer.exchange, consumer.id)

        async def timed(messages: Sequence[Message]) -> Any:
            with seconds.time():
                return await run(messages)

        return timed

    def text(self, health: Report, queues: Sequence[QueueRow]) -> bytes:
        """Everything in Prometheus' text format; `queues` are those of this process, as their brokers report."""
        return generate_latest(self._registry) + generate_latest(_Now(health, queues))


class _Now(NamedTuple):
    """A collector of what is known at this moment."""

    health: Report
    queues: Sequence[QueueRow]

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        consumers, producers = self.health.consumers, self.health.producers
        queues = {row.queue: row for row in self.queues}
        for table, rows in ((CONSUMERS, consumers), (PRODUCERS, producers), (QUEUES, queues)):
            for kind, name, field, text in table:
                family = kind(f"mqasync_{name}", text, labels=QUEUE)
                for queue, row in rows.items():
                    if getattr(row, field) is not None:  # what the broker tells
                        family.add_metric(queue.split("/"), getattr(row, field))
                yield family
        text = "Messages published by a producer or consumer."
        published = COUNTER("mqasync_messages_published", text, labels=(*QUEUE, "to"))
        both: list[ConsumerHealth | ProducerHealth] = [*consumers.values(), *producers.values()]
        for one in both:
            for to, count in one.published.items():
                published.add_metric((one.exchange, one.id, to), count)
        connected = GAUGE("mqasync_broker_connected", "1 while the broker accepts messages.", labels=("broker",))
        reconnects = COUNTER("mqasync_broker_reconnects", "Connections made after the first.", labels=("broker",))
        for name, broker in self.health.brokers.items():
            connected.add_metric((name,), broker.state == "connected")
            reconnects.add_metric((name,), broker.reconnects)
        text = "Times the event loop was blocked for a second or more."
        yield from (published, connected, reconnects)
        yield COUNTER("mqasync_event_loop_lags", text, value=self.health.lags)
