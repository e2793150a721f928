"""mqasync on SQLite: durable publishes from many publishers beside one commit a row by hand, and latency."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mqasync import Producer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings

from .peers.common import BODY, EVENT
from .report import Report, interleaved, verdict

PUBLISHERS = 64
RECEIVER = """
import sys, time
from mqasync import consumer

@consumer(exchange="latency", id="q")
async def receive(body: dict):
    print(time.time() - body["sent"], flush=True)
"""


async def run(report: Report, directory: Path, rounds: int, count: int) -> None:
    """Measure both, and the latency between two processes."""
    url = f"sqlite:{directory}/bench.db"
    brokers = Brokers(Settings(brokers={"main": url}))
    for exchange in ("bench", "latency"):
        await brokers.route(exchange).call(lambda transport, exchange=exchange: transport.declare(exchange, "q"))  # type: ignore[misc]
    await brokers.close()

    async def publish(total: int) -> None:
        numbers = iter(range(total))

        async def work(producer: Producer) -> None:
            for _ in numbers:
                await producer.produce(EVENT)

        async with Producer(id="bench", exchange="bench", broker=url) as producer:
            await asyncio.gather(*(work(producer) for _ in range(PUBLISHERS)))

    async def by_hand(total: int) -> None:
        database = sqlite3.connect(directory / "hand.db", isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE IF NOT EXISTS messages (n INTEGER PRIMARY KEY, body BLOB)")
        for _ in range(total):
            database.execute("INSERT INTO messages (body) VALUES (?)", (BODY,))
        database.close()

    report.heading("SQLite")
    figures = await interleaved({"mqasync": publish, "sqlite3, a commit a row": by_hand}, rounds, count)
    report.compare(f"publish durably, {PUBLISHERS} publishers", figures, {})
    await latency(report, url, directory, 300)


async def latency(report: Report, url: str, directory: Path, count: int) -> None:
    """From publish to handler, in another process."""
    (directory / "receiver.py").write_text(RECEIVER)
    command = [sys.executable, "-m", "mqasync", "run", "receiver", "--broker", url]
    environment = {**os.environ, "PYTHONPATH": str(directory)}
    with subprocess.Popen(  # noqa: ASYNC220, it is read in a thread
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as receiver:
        assert receiver.stdout
        seconds = []
        async with Producer(id="bench", exchange="latency", broker=url) as producer:
            for _ in range(count):
                await producer.produce({"sent": time.time()})
                seconds.append(float(await asyncio.to_thread(receiver.stdout.readline)))
        receiver.terminate()
    milliseconds = [second * 1000 for second in sorted(seconds)[: int(count * 0.99)]]
    p50, p99 = statistics.median(milliseconds), milliseconds[-1]
    report.say(f"From publish to a handler in another process: p50 {p50:.1f} ms{verdict(p50, 5)}, p99 {p99:.1f} ms.")
