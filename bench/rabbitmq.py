"""mqasync on RabbitMQ beside aio-pika and aiormq doing the same by hand: publish, consume, and how long it takes.

The same for all: uvloop, a durable queue, persistent messages of 256 bytes of JSON, prefetch 100, an
acknowledgement after the handler; 200 publishes in flight, mandatory and confirmed.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import aiormq
import msgspec
from aiormq import spec

from mqasync import Consumer, Producer, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import ExchangeSettings, Settings
from mqasync.core.channel import Channel
from mqasync.handlers.step import Step

from .peers.common import BODY, EVENT, IN_FLIGHT, PREFETCH
from .report import Report, interleaved, verdict

NAMES = ("mqasync", "typed", "many", "aio-pika", "aiormq", "latency-mqasync", "latency-aio-pika")
WARM = 20  # messages before the latency is measured
LATENCY_RATE = 1000  # messages a second


class Event(msgspec.Struct):
    """EVENT, typed."""

    ip: str
    source: str
    note: str


async def in_flight(count: int, publish: Callable[[], Awaitable[Any]]) -> None:
    """`publish()` `count` times, IN_FLIGHT at once."""
    numbers = iter(range(count))

    async def work() -> None:
        for _ in numbers:
            await publish()

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


class Countdown:
    """`await countdown` ends when `seen` was called so many times."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._done = asyncio.Event()

    def seen(self) -> None:
        """One more."""
        self._left -= 1
        if self._left == 0:
            self._done.set()

    def __await__(self) -> Any:
        return self._done.wait().__await__()


class Bench:
    """One exchange and queue for each contestant, on one RabbitMQ, all of queues of one kind."""

    def __init__(self, url: str, kind: str) -> None:
        self.url = url
        self.names = {name: f"{name}-{kind}" for name in NAMES}
        options = {"x-queue-type": kind}
        exchanges = {name: ExchangeSettings(options=options) for name in self.names.values()}
        self.brokers = Brokers(Settings(brokers={"main": url}, exchanges=exchanges))

    async def open(self) -> None:
        """Declare the queues, all of them as mqasync does."""
        for name in self.names.values():
            await self.brokers.route(name).call(lambda transport, name=name: transport.declare(name, "q"))  # type: ignore[misc]

    async def publish_mqasync(self, count: int) -> None:
        """As a user writes it."""
        async with Producer(id="bench", exchange=self.names["mqasync"], broker=self.url) as producer:
            await in_flight(count, lambda: producer.produce(EVENT))

    async def publish_many(self, count: int) -> None:
        """As a user writes it who has them all."""
        async with Producer(id="bench", exchange=self.names["many"], broker=self.url) as producer:
            await producer.produce_many(EVENT for _ in range(count))

    async def fill(self, name: str, count: int) -> None:
        """So many messages more for a contestant to consume, and those that it takes beyond its count."""
        async with Producer(id="bench", exchange=self.names[name], broker=self.url) as producer:
            await producer.produce_many(EVENT for _ in range(count))

    async def publish_aio_pika(self, count: int) -> None:
        """By hand."""
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel(on_return_raises=True)
            exchange = await channel.get_exchange(self.names["aio-pika"])

            async def publish() -> None:
                body = json.dumps(EVENT).encode()
                message = aio_pika.Message(body, delivery_mode=2, content_type="application/json")
                await exchange.publish(message, routing_key="")

            await in_flight(count, publish)

    async def publish_aiormq(self, count: int) -> None:
        """By hand, one layer below."""
        connection = await aiormq.connect(self.url)
        channel = await connection.channel()

        async def publish() -> None:
            properties = spec.Basic.Properties(delivery_mode=2, content_type="application/json")
            body = json.dumps(EVENT).encode()
            await channel.basic_publish(body, exchange=self.names["aiormq"], properties=properties, mandatory=True)

        await in_flight(count, publish)
        await connection.close()

    async def _consume(self, handler: Consumer, countdown: Countdown) -> None:
        channel = Channel(Step(handler, self.brokers.publish, {}), self.brokers.route(handler.exchange))
        channel.start()
        await countdown
        await channel.drain(5.0)

    async def consume_mqasync(self, count: int) -> None:
        """The handler that a user writes."""
        countdown = Countdown(count)

        @consumer(exchange=self.names["mqasync"], id="q", prefetch=PREFETCH)
        async def handler(event: dict[str, Any]) -> None:
            countdown.seen()

        await self._consume(handler, countdown)

    async def consume_typed(self, count: int) -> None:
        """The same with a typed body."""
        countdown = Countdown(count)

        @consumer(exchange=self.names["typed"], id="q", prefetch=PREFETCH)
        async def handler(event: Event) -> None:
            countdown.seen()

        await self._consume(handler, countdown)

    async def consume_aio_pika(self, count: int) -> None:
        """By hand."""
        countdown = Countdown(count)

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            json.loads(message.body)
            await message.ack()
            countdown.seen()

        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=PREFETCH)
            queue = await channel.get_queue(f"{self.names['aio-pika']}.q")
            await queue.consume(handle)
            await countdown

    async def consume_aiormq(self, count: int) -> None:
        """By hand, one layer below."""
        countdown = Countdown(count)
        connection = await aiormq.connect(self.url)
        channel = await connection.channel()

        async def handle(message: aiormq.abc.DeliveredMessage) -> None:
            json.loads(message.body)
            await channel.basic_ack(message.delivery_tag or 0)
            countdown.seen()

        await channel.basic_qos(prefetch_count=PREFETCH)
        await channel.basic_consume(f"{self.names['aiormq']}.q", handle)
        await countdown
        await connection.close()

    async def latency_mqasync(self, count: int) -> list[float]:
        """Seconds from produce() to the handler."""
        seconds: list[float] = []
        countdown = Countdown(count + WARM)
        exchange = self.names["latency-mqasync"]

        @consumer(exchange=exchange, id="q", prefetch=PREFETCH)
        async def handler(event: dict[str, Any]) -> None:
            seconds.append(time.perf_counter() - event["sent"])
            countdown.seen()

        async with Producer(id="bench", exchange=exchange, broker=self.url) as producer:
            consuming = asyncio.create_task(self._consume(handler, countdown))
            await paced(count, lambda: producer.produce({**EVENT, "sent": time.perf_counter()}))
            await consuming
        return seconds[WARM:]

    async def latency_aio_pika(self, count: int) -> list[float]:
        """The same by hand."""
        seconds: list[float] = []
        countdown = Countdown(count + WARM)
        name = self.names["latency-aio-pika"]

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            seconds.append(time.perf_counter() - json.loads(message.body)["sent"])
            await message.ack()
            countdown.seen()

        async with await aio_pika.connect(self.url) as connection, await aio_pika.connect(self.url) as publishing:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=PREFETCH)
            await (await channel.get_queue(f"{name}.q")).consume(handle)
            exchange = await (await publishing.channel(on_return_raises=True)).get_exchange(name)

            async def publish() -> None:
                body = json.dumps({**EVENT, "sent": time.perf_counter()}).encode()
                await exchange.publish(aio_pika.Message(body, delivery_mode=2), routing_key="")

            await paced(count, publish)
            await countdown
        return seconds[WARM:]


async def paced(count: int, publish: Callable[[], Awaitable[Any]]) -> None:
    """`publish()` LATENCY_RATE times a second, and WARM times before, until everything is connected."""
    for _ in range(WARM):
        await publish()
    loop = asyncio.get_running_loop()
    started, tasks = loop.time(), []
    for n in range(count):
        await asyncio.sleep(started + n / LATENCY_RATE - loop.time())
        tasks.append(asyncio.ensure_future(publish()))
    await asyncio.gather(*tasks)


async def run(report: Report, url: str, rounds: int, count: int) -> None:
    """Measure all in turns."""
    about = (
        f"One process, uvloop, durable queues, persistent messages of {len(BODY)} bytes of JSON, prefetch {PREFETCH},"
        f" acknowledged after the handler; {IN_FLIGHT} publishes in flight, mandatory and confirmed. CPU is that of the"
        f" process. Medians of {rounds} interleaved rounds of {count:,} messages."
    )
    report.heading("RabbitMQ beside clients written by hand", about)
    for kind in ("quorum", "classic"):
        bench = Bench(url, kind)
        await bench.open()
        publish = {
            "mqasync": bench.publish_mqasync,
            "mqasync, produce_many": bench.publish_many,
            "aio-pika by hand": bench.publish_aio_pika,
            "aiormq by hand": bench.publish_aiormq,
        }
        figures = await interleaved(publish, rounds, count)
        report.compare(f"publish confirmed, {kind} queue", figures, {"aiormq by hand": 0.8})
        for name in ("mqasync", "aio-pika", "aiormq"):
            await bench.fill(name, rounds * 2 * PREFETCH)
        await bench.fill("typed", rounds * (count + 2 * PREFETCH))
        consume = {
            "mqasync": bench.consume_mqasync,
            "mqasync, typed body": bench.consume_typed,
            "aio-pika by hand": bench.consume_aio_pika,
            "aiormq by hand": bench.consume_aiormq,
        }
        figures = await interleaved(consume, rounds, count)
        report.compare(f"consume, handle, acknowledge, {kind} queue", figures, {"aiormq by hand": 0.9})
        plain, typed = (statistics.median(figure.cpu) for figure in figures[:2])
        report.say(f"A typed body costs {typed - plain:+.1f} microseconds{verdict(typed - plain, 3)}.")
        await latency(report, bench, kind, rounds, count)
        await bench.brokers.close()


async def latency(report: Report, bench: Bench, kind: str, rounds: int, count: int) -> None:
    """From publish to handler, at a rate that is far below what is possible."""
    turns = {"mqasync": bench.latency_mqasync, "aio-pika by hand": bench.latency_aio_pika}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        for name in sorted(turns, reverse=number % 2 == 0):  # what was done before slows the first
            seconds[name] += await turns[name](count // 4)
    found = {}
    for name, all in seconds.items():
        of = statistics.quantiles(all, n=100)
        found[name] = of[49], of[98]
    rows = [[name, f"{p50 * 1e3:.2f}", f"{p99 * 1e3:.2f}"] for name, (p50, p99) in found.items()]
    report.table([f"publish to handler at {LATENCY_RATE:,}/s, {kind} queue", "p50 ms", "p99 ms"], rows)
    p50, p99 = (own / hand for own, hand in zip(*found.values(), strict=True))
    report.say(f"mqasync to aio-pika: p50 {p50:.2f}{verdict(p50, 1)}, p99 {p99:.2f}{verdict(p99, 1)}.")
