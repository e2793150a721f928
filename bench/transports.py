"""mqasync on every other broker beside the loop that a user would write by hand on the same client library.

The same for both: uvloop, messages of 256 bytes of JSON, confirmed as durably as the transport has them confirmed,
prefetch 100, an acknowledgement after the handler.
"""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import uvloop
from msgspec import Struct

from mqasync import Producer, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.core.channel import Channel
from mqasync.handlers.step import Step
from tests.servers.activemq import running_activemq
from tests.servers.kafka import kafka
from tests.servers.nats import running_nats
from tests.servers.postgres import running_postgres
from tests.servers.redis import durable_redis
from tests.servers.sqs import CREDENTIALS, moto

from . import by_hand
from .peers.common import BODY, EVENT, IN_FLIGHT, PREFETCH
from .rabbitmq import Countdown, in_flight
from .report import Figure, Report, measure

AT_MOST = 1.15
EXCHANGE = "bench"
SQS_PART = 3


class Contest(Struct):
    """One broker, and who does it by hand on which library."""

    broker: str
    server: Callable[[], AbstractContextManager[Any]]
    library: str
    hand: type[by_hand.ByHand]
    part: int = 1  # of the messages, where the server is slow


CONTESTS = (
    Contest("Redis", durable_redis, "redis.asyncio", by_hand.Redis),
    Contest("Kafka", kafka, "aiokafka", by_hand.Kafka),
    Contest("NATS", running_nats, "nats-py", by_hand.NATS),
    Contest("PostgreSQL", running_postgres, "asyncpg", by_hand.PostgreSQL),
    Contest("ActiveMQ", running_activemq, "stompman", by_hand.ActiveMQ),
    Contest("SQS", moto, "aiobotocore", by_hand.SQS, part=SQS_PART),
)


class WithMqasync:
    """As a user writes it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.brokers = Brokers(Settings(brokers={"main": url}))

    async def open(self) -> None:
        """Declare the queue."""
        await self.brokers.route(EXCHANGE).call(lambda transport: transport.declare(EXCHANGE, "q"))

    async def publish_many(self, count: int) -> None:
        """By who has them all, as has who does it by hand."""
        async with Producer(id="bench", exchange=EXCHANGE, broker=self.url) as producer:
            await producer.produce_many(EVENT for _ in range(count))

    async def publish(self, count: int) -> None:
        """By many who have one each."""
        async with Producer(id="bench", exchange=EXCHANGE, broker=self.url) as producer:
            await in_flight(count, lambda: producer.produce(EVENT))

    async def consume(self, count: int) -> None:
        """The handler that a user writes."""
        countdown = Countdown(count)

        @consumer(exchange=EXCHANGE, id="q", prefetch=PREFETCH)
        async def handler(event: dict[str, Any]) -> None:
            countdown.seen()

        channel = Channel(Step(handler, self.brokers.publish, {}), self.brokers.route(EXCHANGE))
        channel.start()
        await countdown
        await channel.drain(5.0)


def run(report: Report, rounds: int, count: int) -> None:
    """Measure all of them, a broker after the other."""
    logging.getLogger("mqasync").setLevel(logging.ERROR)  # one node on one machine can lose what it confirms: we know
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it asks while Kafka starts
    about = (
        f"One process, uvloop, messages of {len(BODY)} bytes of JSON, prefetch {PREFETCH}, acknowledged after the"
        f" handler; by hand in batches of {by_hand.BATCH} (SQS: {by_hand.SQS.SIZE}), produce() with {IN_FLIGHT} under"
        f" way. CPU is that of the process. Medians of {rounds} interleaved rounds of {count:,} messages"
        f" (SQS, which is moto here: {count // SQS_PART:,})."
    )
    report.heading("Every other broker beside a loop written by hand", about)
    uvloop.run(core_alone(report, rounds, count))
    for contest in CONTESTS:
        with contest.server() as server, patch.dict(os.environ, CREDENTIALS):
            uvloop.run(compare(report, contest, server.url, rounds, count // contest.part))


async def core_alone(report: Report, rounds: int, count: int) -> None:
    """What no transport can save: the core, and queues in memory."""
    mqasync = WithMqasync("memory:bench")
    await mqasync.open()
    many, each, handled = Figure("produce_many"), Figure("produce"), Figure("consume, handle, acknowledge")
    for _ in range(rounds):
        for publishing, publish in ((many, mqasync.publish_many), (each, mqasync.publish)):
            await measure(publishing, publish, count)
            await measure(handled, mqasync.consume, count)
    rows = [[figure.name, f"{statistics.median(figure.cpu):.1f}"] for figure in (many, each, handled)]
    report.table(["the core alone, on memory:", "CPU us/message"], rows)
    await mqasync.brokers.close()


async def compare(report: Report, contest: Contest, url: str, rounds: int, count: int) -> None:
    """Each in turn publishes and then consumes the same messages, so that every queue is empty after its turn."""
    mqasync, hand = WithMqasync(url), contest.hand(url)
    await mqasync.open()
    await hand.open()
    name = f"{contest.library} by hand"
    many, each, published = Figure("mqasync, produce_many"), Figure("mqasync"), Figure(name)
    handled, consumed = Figure("mqasync"), Figure(name)
    turns = (
        (many, mqasync.publish_many, handled, mqasync.consume),
        (each, mqasync.publish, handled, mqasync.consume),
        (published, hand.publish, consumed, hand.consume),
    )
    for _ in range(rounds):
        for publishing, publish, consuming, consume in turns:
            await measure(publishing, publish, count)
            await measure(consuming, consume, count)
    report.compare(f"publish confirmed, {contest.broker}", [many, each, published], {name: AT_MOST})
    report.compare(f"consume, handle, acknowledge, {contest.broker}", [handled, consumed], {name: AT_MOST})
    await mqasync.brokers.close()
