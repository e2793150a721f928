"""How far one machine and one process carry on RabbitMQ: two workers, a thousand consumers, a million messages."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mqasync import Producer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from tests.brokers import free_port

from .report import Report, verdict
from .start import resident

BODY = "x" * 98  # 100 bytes of JSON
COUNTING = """
import os, time
from mqasync import consumer

handled = os.open("handled", os.O_CREAT | os.O_APPEND | os.O_WRONLY)  # grows by a byte for each message

@consumer(exchange="{exchange}", id="q", prefetch={prefetch})
async def handler(body: str):
    end = time.thread_time() + {seconds}
    while time.thread_time() < end:
        pass
    os.write(handled, b".")
"""
MANY = """
from mqasync import consumer

def add(number):
    @consumer(exchange="many", id=f"q{number}")
    async def handler(body): ...
    globals()[f"handler{number}"] = handler

for number in range(NUMBER):
    add(number)
"""


class Bench:
    """Services in files of `directory`, on the RabbitMQ at `url`."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url, self._directory = url, directory
        self._handled = directory / "handled"

    @contextmanager
    def running(self, source: str, *options: str) -> Iterator[int]:
        """`mqasync run` of that source; its process id."""
        (self._directory / "service.py").write_text(source)
        self._handled.write_bytes(b"")
        command = [sys.executable, "-m", "mqasync", "run", "service", "--broker", self._url, *options]
        environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{self._directory}"}
        with (self._directory / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=self._directory, env=environment, stderr=log)
            try:
                yield process.pid
            finally:
                process.terminate()
                process.wait()

    async def publish(self, exchange: str, count: int) -> None:
        """A backlog of `count` messages."""
        brokers = Brokers(Settings(brokers={"main": self._url}))
        await brokers.route(exchange).call(lambda transport: transport.declare(exchange, "q.dead", bound=False))
        await brokers.route(exchange).call(lambda transport: transport.declare(exchange, "q"))
        await brokers.close()
        async with Producer(id="bench", exchange=exchange, broker=self._url) as producer:
            await producer.produce_many(BODY for _ in range(count))

    def handled(self) -> int:
        """Messages that were handled since the service started."""
        return self._handled.stat().st_size

    def until_handled(self, count: float) -> float:
        """When that many were."""
        while self.handled() < count:
            time.sleep(0.02)
        return time.perf_counter()

    def rate(self, count: int, workers: int) -> float:
        """Messages a second of a handler that computes a millisecond, between 40 % and 95 % of a backlog."""
        asyncio.run(self.publish("compute", count))
        with self.running(COUNTING.format(exchange="compute", prefetch=20, seconds=0.001), "--workers", str(workers)):
            begin = self.until_handled(0.4 * count)
            first = self.handled()
            end = self.until_handled(0.95 * count)
            rate = (self.handled() - first) / (end - begin)
            self.until_handled(count)
        return rate

    def many(self, consumers: int, idle: float) -> tuple[float, float, float]:
        """Seconds until so many consume; then MB and percent of a core in `idle` seconds."""
        address = f"127.0.0.1:{free_port()}"
        started = time.perf_counter()
        with self.running(MANY.replace("NUMBER", str(consumers)), "--http", address) as process:
            while not ready(address):
                time.sleep(0.1)
            seconds = time.perf_counter() - started
            time.sleep(1.0)
            cpu = cpu_seconds(process)
            time.sleep(idle)
            return seconds, resident(process), (cpu_seconds(process) - cpu) / idle * 100

    def backlog(self, count: int) -> tuple[float, float, float]:
        """Messages a second, and MB of the process when it began and at the most."""
        asyncio.run(self.publish("backlog", count))
        with self.running(COUNTING.format(exchange="backlog", prefetch=100, seconds=0)) as process:
            begin = self.until_handled(count * 0.01)
            sizes = [resident(process)]
            while self.handled() < count:
                sizes.append(resident(process))
                time.sleep(0.2)
            return 0.99 * count / (time.perf_counter() - begin), sizes[0], max(sizes)


def ready(address: str) -> bool:
    """Whether the process says that all its consumers consume."""
    try:
        with urllib.request.urlopen(f"http://{address}/health/ready") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def cpu_seconds(process: int) -> float:
    """User and system time of a process since its start."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(processes: int, seconds: float = 1.0) -> float:
    """CPU seconds a second that so many processes get which do nothing but compute."""
    code = f"import time; end = time.time() + {seconds}\nwhile time.time() < end: pass\nprint(time.process_time())"
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(process.communicate()[0]) for process in running) / seconds


def run(
    report: Report, url: str, directory: Path, computed: int, consumers: int, idle_seconds: float, waiting: int
) -> None:
    """Measure all."""
    bench = Bench(url, directory)
    possible = share(2) / share(1)
    one, two = bench.rate(computed, 1), bench.rate(computed, 2)
    first, *_ = bench.many(consumers, 1.0)
    again, memory, idle = bench.many(consumers, idle_seconds)
    rate, begin, most = bench.backlog(waiting)
    about = (
        "Quorum queues; RabbitMQ runs on the same cores. The first start on an empty RabbitMQ is mostly its own time"
        f" for making {2 * consumers:,} queues."
    )
    report.heading("Scale", about)
    rows = [
        ["messages/s of one worker, a handler that computes 1 ms", f"{one:,.0f}"],
        ["messages/s of two", f"{two:,.0f}"],
        ["ratio", f"{two / one:.2f}{verdict(two / one, at_least=1.7)}"],
        ["ratio of two processes to one that only compute, at that time", f"{possible:.2f}"],
        [f"seconds until {consumers:,} consumers consume, first start", f"{first:.1f}"],
        ["the same, started again", f"{again:.1f}{verdict(again, 5)}"],
        [f"MB, {consumers:,} idle consumers", f"{memory:.0f}{verdict(memory, 150)}"],
        ["percent of a core, idle", f"{idle:.1f}{verdict(idle, 2)}"],
        [f"messages/s, {waiting:,} waiting messages of 100 bytes", f"{rate:,.0f}"],
        ["MB when they begin", f"{begin:.0f}"],
        ["MB more at the most", f"{most - begin:.0f}{verdict(most - begin, 10)}"],
    ]
    report.table(["", f"on {os.cpu_count()} cores"], rows)
