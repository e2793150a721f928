"""How throughput changes with body size, prefetch, concurrency and number of queues, drawn as charts.

Of every point the better of two rounds: what else the machine does can only take away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from mqasync import Consumer, Message, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.core.channel import Channel
from mqasync.handlers.step import Step
from mqasync.message import new_id

from .chart import Points, chart
from .rabbitmq import Countdown
from .report import Report

ROUNDS = 2
MOST_BYTES = 20_000_000  # of a round
WAIT_SECONDS = 0.01  # of a handler that shows what concurrency is for
UNIT = "messages/s"


class Case(Struct, frozen=True):
    """What is varied; `wait`: seconds that the handler sleeps."""

    size: int = 100
    prefetch: int = 100
    concurrency: int = 10
    queues: int = 1
    wait: float = 0.0


class Rates(Struct):
    """Messages a second."""

    publish: float = 0.0
    consume: float = 0.0


async def measure(url: str, case: Case, count: int) -> Rates:
    """Publish `count` messages to `case.queues` queues, and then consume them."""
    brokers, exchange = Brokers(Settings(brokers={"main": url})), f"curve{new_id()}"
    countdown = Countdown(count)

    async def handler(body: bytes) -> None:
        if case.wait:
            await asyncio.sleep(case.wait)
        countdown.seen()

    def declared(number: int) -> Consumer:
        decorate = consumer(
            exchange=f"{exchange}-{number}", id="q", prefetch=case.prefetch, concurrency=case.concurrency
        )
        return decorate(handler)

    consumers = [declared(number) for number in range(case.queues)]
    channels = [Channel(Step(one, brokers.publish, {}), brokers.route(one.exchange)) for one in consumers]
    for channel in channels:
        await channel.declare()
    body = b"x" * case.size
    started = time.perf_counter()
    for begin in range(0, count, 1000):  # as produce_many does, no more than that at once
        messages = [
            Message(body=body, exchange=channels[n % case.queues].exchange)
            for n in range(begin, min(begin + 1000, count))
        ]
        await asyncio.gather(*map(brokers.publish, messages))
    published = time.perf_counter()
    for channel in channels:
        channel.start(declared=True)
    await countdown
    consumed = time.perf_counter()
    await asyncio.gather(*(channel.drain(5.0) for channel in channels))
    for channel in channels:
        for id in ("q", "q.dead"):
            await channel.broker.call(lambda transport, channel=channel, id=id: transport.delete(channel.exchange, id))  # type: ignore[misc]
    await brokers.close()
    return Rates(count / (published - started), count / (consumed - published))


async def best(url: str, case: Case, count: int) -> Rates:
    """The better of ROUNDS."""
    count = max(20, min(count, MOST_BYTES // case.size))
    rounds = [await measure(url, case, count) for _ in range(ROUNDS)]
    return Rates(max(of.publish for of in rounds), max(of.consume for of in rounds))


async def line(
    url: str, xs: Sequence[int], case: Callable[[int], Case], count: Callable[[int], int]
) -> tuple[Points, Points]:
    """What was published and consumed at each of `xs`."""
    found = [(x, await best(url, case(x), count(x))) for x in xs]
    return [(x, rates.publish) for x, rates in found], [(x, rates.consume) for x, rates in found]


def show(report: Report, name: str, title: str, x_title: str, lines: dict[str, Points]) -> None:
    """A table and a picture of the same."""
    xs = [x for x, _ in next(iter(lines.values()))]
    rows = [[name, *(f"{y:,.0f}" for _, y in points)] for name, points in lines.items()]
    report.table([f"{UNIT} by {x_title}", *(f"{x:,}" for x in xs)], rows)
    report.picture(f"performance-{name}.svg", f"{title}, {UNIT}", chart(title, x_title, UNIT, lines))


async def run(report: Report, url: str, quick: bool) -> None:
    """Draw all curves."""
    few = 100 if quick else 5_000
    about = (
        "One process, durable quorum queues, bodies of 100 bytes, prefetch 100 and concurrency 10 where nothing else is"
        f" said. Each point is the better of {ROUNDS} rounds. `memory:` shows the limit of mqasync itself."
    )
    report.heading("Curves", about)
    await by_size(report, url, few, (100, 1_000_000) if quick else (100, 1_000, 10_000, 100_000, 1_000_000))
    hundreds = (1, 1000) if quick else (1, 3, 10, 30, 100, 300, 1000)
    await by_prefetch(report, url, few, hundreds)
    await by_concurrency(report, url, few, hundreds)
    await by_queues(report, url, few, (1, 10) if quick else (1, 3, 10, 30, 100))


async def by_size(report: Report, url: str, count: int, sizes: Sequence[int]) -> None:
    """Both ways, on RabbitMQ and in memory."""
    publish, consume = await line(url, sizes, lambda size: Case(size=size), lambda _: count)
    own_publish, own_consume = await line("memory:curves", sizes, lambda size: Case(size=size), lambda _: count)
    lines = {
        "publish, RabbitMQ": publish,
        "consume, RabbitMQ": consume,
        "publish, memory": own_publish,
        "consume, memory": own_consume,
    }
    show(report, "body", "Body size", "bytes of body", lines)


async def by_prefetch(report: Report, url: str, count: int, values: Sequence[int]) -> None:
    """Consume with a handler that does nothing."""
    _, consume = await line(url, values, lambda n: Case(prefetch=n), lambda n: min(count, 500 * n))
    show(report, "prefetch", "Prefetch", "prefetch", {"consume, RabbitMQ": consume})


async def by_concurrency(report: Report, url: str, count: int, values: Sequence[int]) -> None:
    """Consume with a handler that waits; a round takes a second or so."""

    def case(concurrency: int) -> Case:
        return Case(concurrency=concurrency, prefetch=2 * concurrency, wait=WAIT_SECONDS)

    def counted(concurrency: int) -> int:
        return min(count, 100 * concurrency)

    _, consume = await line(url, values, case, counted)
    _, own = await line("memory:curves", values, case, counted)
    title = f"Concurrency, a handler that waits {WAIT_SECONDS * 1000:g} ms"
    show(report, "concurrency", title, "concurrency", {"consume, RabbitMQ": consume, "consume, memory": own})


async def by_queues(report: Report, url: str, count: int, values: Sequence[int]) -> None:
    """Both ways, spread evenly."""
    publish, consume = await line(url, values, lambda n: Case(queues=n), lambda _: count)
    show(report, "queues", "Number of queues", "queues", {"publish, RabbitMQ": publish, "consume, RabbitMQ": consume})
