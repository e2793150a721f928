"""Many reconnects: memory, tasks and file descriptors stay as they are, and nobody is to blame."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Iterator

import psutil
import pytest

from mqasync import Message, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.core.channel import Channel
from mqasync.handlers.step import Step
from mqasync.message import new_id
from mqasync.transport import DEAD

from ..waiting import until
from .conftest import Record
from .load import LOOPS, MESSAGES, Load
from .proxy import Proxy

RECONNECTS = 300 if MESSAGES >= 20_000 else 60  # `make faults` has the time
WARM = 20  # reconnects until everything that is made once is there
LOSSES = 25  # after 20 returns RabbitMQ itself buries a message
MAX_GROWTH = 20 * 1024 * 1024


class Use:
    """What this process uses now."""

    def __init__(self, load: Load) -> None:
        gc.collect()
        self.memory = psutil.Process().memory_info().rss
        self.files = len(os.listdir("/proc/self/fd"))
        tasks = [task.get_name() for task in asyncio.all_tasks(load._event_loop)]
        self.tasks = sum(not name.startswith(("the handler", "settling")) for name in tasks)  # of which there are many


@pytest.fixture
def no_log() -> Iterator[None]:
    """pytest would keep each log record, and with its traceback every connection that was lost."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("no_log")
def test_many_reconnects_cost_nothing(proxy: Proxy, record: Record) -> None:
    load = Load(f"amqp://guest:guest@127.0.0.1:{proxy.port}/", 10**9, next(iter(LOOPS)), pace=0.25)
    load.start()
    broker = load.brokers.route(load.exchange)

    def reconnect(times: int) -> None:
        for _ in range(times):
            before, handled = broker.reconnects, len(load.ledger.processed)
            proxy.drop()
            load.until(lambda before=before: broker.reconnects > before, "it connects again")  # type: ignore[misc]
            load.until(lambda: all(channel.consuming for channel in load.channels), "it consumes again")
            load.until(lambda handled=handled: len(load.ledger.processed) > handled, "messages flow again")  # type: ignore[misc]

    reconnect(WARM)
    before = Use(load)
    reconnect(RECONNECTS - WARM)
    # Tasks come and go with messages; those that stay are too many at any moment
    load.until(lambda: Use(load).tasks <= before.tasks + 8, f"tasks are as few as they were, {before.tasks}")
    after = Use(load)
    load.stop = True
    load.finish()
    assert after.memory - before.memory < MAX_GROWTH
    assert abs(after.files - before.files) <= 4, f"{before.files} files became {after.files}"
    grown = (after.memory - before.memory) / 1e6
    record(
        "RabbitMQ", f"{RECONNECTS} reconnects", [load], None, remark=f"memory {grown:+.1f} MB after the first {WARM}"
    )


async def test_a_lost_connection_that_its_process_outlives_puts_nobody_among_the_dead_letters(proxy: Proxy) -> None:
    handled, outlived = list[int](), asyncio.Event()

    @consumer(exchange=f"E{new_id()}", id="q", concurrency=1, prefetch=LOSSES)
    async def handler(body: dict[str, int]) -> None:
        await outlived.wait()
        outlived.clear()
        handled.append(body["n"])

    brokers = Brokers(Settings(brokers={"main": f"amqp://guest:guest@127.0.0.1:{proxy.port}/"}))
    channel = Channel(Step(handler, brokers.publish, {}), brokers.route(handler.exchange))
    await channel.declare()
    messages = [Message(body=b'{"n": %d}' % n, exchange=handler.exchange) for n in range(LOSSES)]
    await asyncio.gather(*map(brokers.publish, messages))
    receiving = channel.start()
    # When more connections are lost than the returns that RabbitMQ takes, while most messages wait in hand
    while left := LOSSES - len(set(handled)):
        await until(lambda: channel.held >= left, "what is left is in hand")
        before = len(handled)
        proxy.drop()
        outlived.set()
        await until(lambda: len(handled) > before, "one is handled")  # noqa: B023
    # Then all are handled, and nobody is to blame
    assert not receiving.done() and (channel.counts.dead_lettered, channel.counts.failed) == (0, 0)
    dead = await channel.broker.call(lambda transport: transport.stats(handler.exchange, "q" + DEAD))
    assert dead and dead.total == 0
    await channel.drain(1.0)
    await brokers.close()
