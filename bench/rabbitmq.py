"""mqasync on RabbitMQ beside aio-pika and aiormq doing the same by hand: consume and acknowledge, publish confirmed.

The same for all: uvloop, a durable quorum queue, persistent messages of 256 bytes of JSON, prefetch
100, an acknowledgement after the handler; 200 publishes in flight, mandatory and confirmed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import aiormq
from aiormq import spec

from mqasync import Producer, consumer
from mqasync.broker import Brokers
from mqasync.channel import Channel
from mqasync.config import Settings
from mqasync.step import Step

from .report import Figure, measure, show

EVENT = {"ip": "192.0.2.1", "source": "bench", "note": "x" * 206}
BODY = json.dumps(EVENT).encode()
assert len(BODY) == 256
IN_FLIGHT = 200
PREFETCH = 100


async def in_flight(count: int, publish: Callable[[], Awaitable[Any]]) -> None:
    """`publish()` `count` times, IN_FLIGHT at once."""
    numbers = iter(range(count))

    async def work() -> None:
        for _ in numbers:
            await publish()

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


class Bench:
    """One exchange and queue for each contestant, on one RabbitMQ."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.brokers = Brokers(Settings(brokers={"main": url}))

    async def open(self) -> None:
        """Declare the queues, all of them as mqasync does."""
        for name in ("mqasync", "aio-pika", "aiormq"):
            await self.brokers.route(name).call(lambda transport, name=name: transport.declare(name, "q"))  # type: ignore[misc]

    async def publish_mqasync(self, count: int) -> None:
        """As a user writes it."""
        async with Producer(id="bench", exchange="mqasync", broker=self.url) as producer:
            await in_flight(count, lambda: producer.produce(EVENT))

    async def publish_aio_pika(self, count: int) -> None:
        """By hand."""
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel(on_return_raises=True)
            exchange = await channel.get_exchange("aio-pika")

            async def publish() -> None:
                body = json.dumps(EVENT).encode()
                await exchange.publish(
                    aio_pika.Message(body, delivery_mode=2, content_type="application/json"), routing_key=""
                )

            await in_flight(count, publish)

    async def publish_aiormq(self, count: int) -> None:
        """By hand, one layer below."""
        connection = await aiormq.connect(self.url)
        channel = await connection.channel()

        async def publish() -> None:
            properties = spec.Basic.Properties(delivery_mode=2, content_type="application/json")
            body = json.dumps(EVENT).encode()
            await channel.basic_publish(body, exchange="aiormq", properties=properties, mandatory=True)

        await in_flight(count, publish)
        await connection.close()

    async def consume_mqasync(self, count: int) -> None:
        """The handler that a user writes."""
        done, seen = asyncio.Event(), 0

        @consumer(exchange="mqasync", id="q", prefetch=PREFETCH)
        async def handler(event: dict[str, Any]) -> None:
            nonlocal seen
            seen += 1
            if seen == count:
                done.set()

        channel = Channel(Step(handler, self.brokers.publish, {}), self.brokers.route("mqasync"))
        channel.start()
        await done.wait()
        await channel.drain(5.0)
        assert channel.counts.handled == count

    async def consume_aio_pika(self, count: int) -> None:
        """By hand."""
        done, seen = asyncio.Event(), 0

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            nonlocal seen
            json.loads(message.body)
            await message.ack()
            seen += 1
            if seen == count:
                done.set()

        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=PREFETCH)
            queue = await channel.get_queue("aio-pika.q")
            await queue.consume(handle)
            await done.wait()

    async def consume_aiormq(self, count: int) -> None:
        """By hand, one layer below."""
        done, seen = asyncio.Event(), 0
        connection = await aiormq.connect(self.url)
        channel = await connection.channel()

        async def handle(message: aiormq.abc.DeliveredMessage) -> None:
            nonlocal seen
            json.loads(message.body)
            await channel.basic_ack(message.delivery_tag or 0)
            seen += 1
            if seen == count:
                done.set()

        await channel.basic_qos(prefetch_count=PREFETCH)
        await channel.basic_consume("aiormq.q", handle)
        await done.wait()
        await connection.close()


async def run(url: str, rounds: int, count: int) -> None:
    """Measure all in turns and print two tables."""
    bench = Bench(url)
    await bench.open()
    publish = [Figure(name) for name in ("mqasync", "aio-pika", "aiormq")]
    consume = [Figure(name) for name in ("mqasync", "aio-pika", "aiormq")]
    for _ in range(rounds):
        for figure, work in zip(
            publish, (bench.publish_mqasync, bench.publish_aio_pika, bench.publish_aiormq), strict=True
        ):
            await measure(figure, work, count)
        for figure, work in zip(
            consume, (bench.consume_mqasync, bench.consume_aio_pika, bench.consume_aiormq), strict=True
        ):
            await measure(figure, work, count)
    show("RabbitMQ: consume, handle and acknowledge", consume, {"aio-pika": 0.75})
    show(f"RabbitMQ: publish confirmed, {IN_FLIGHT} in flight", publish, {"aio-pika": 0.9})
    await bench.brokers.close()
