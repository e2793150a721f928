"""What `concurrency` and `prefetch` cost and save on each broker: messages a second, fairness, repeats after a kill."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import uvloop
from msgspec import Struct

from mqasync import Message, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.core.channel import Channel
from mqasync.handlers.step import Step
from mqasync.message import new_id
from tests.brokers import rabbitmq
from tests.servers.sqs import CREDENTIALS

from .curves import Case, best
from .report import Report
from .transports import CONTESTS

PAIRS = ((10, 20), (30, 60), (100, 200))  # concurrency and prefetch
FAIR = 100  # messages that two processes share, each handled for SLOW seconds
SLOW = 0.02
KILLED = 600  # messages, of which a third are handled when the process is killed
PATIENCE = 60.0
SERVICE = """
import asyncio, os
from mqasync import Message, consumer

handled = os.open("handled", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

@consumer(exchange="{exchange}", id="q", concurrency={concurrency}, prefetch={prefetch})
async def handler(body: bytes, message: Message):
    await asyncio.sleep(0.01)
    os.write(handled, message.id.encode() + b"\\n")
"""


class Server(Struct):
    """A broker, the part of the messages that it gets, and what its URL takes so that a kill is noticed soon."""

    name: str
    start: Callable[[], AbstractContextManager[Any]]
    part: int = 1
    lease: str = ""


class File(Struct):
    """What a server has."""

    url: str


@contextmanager
def sqlite() -> Iterator[File]:
    """A file of its own."""
    with tempfile.TemporaryDirectory(prefix="mqasync-bench-") as directory:
        yield File(f"sqlite:{directory}/bench.db")


LEASES = {"Redis": "lease=3", "SQS": "lease=3", "NATS": "lease=3", "PostgreSQL": "lease=3", "Kafka": "session=6"}
SERVERS = (
    Server("RabbitMQ", rabbitmq),
    Server("SQLite", sqlite, lease="lease=3"),
    *(Server(one.broker, one.server, one.part, LEASES.get(one.broker, "")) for one in CONTESTS),
)


def run(report: Report, count: int) -> None:
    """Measure each pair on each broker."""
    logging.getLogger("mqasync").setLevel(logging.CRITICAL)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    about = (
        f"A handler that does nothing, the better of two rounds of {count:,} messages of 100 bytes (SQS, which is moto"
        f" here: {count // 3:,}). Fairness: of {FAIR} messages that wait, each handled for {SLOW * 1000:g} ms, the part"
        f" that the less busy of two processes gets.  Repeats: {KILLED} messages of 10 ms, kill -9 after a"
        " third. Memory: at most `prefetch` bodies."
    )
    report.heading("Defaults of concurrency and prefetch", about)
    rows = []
    for server in SERVERS:
        with server.start() as running, patch.dict(os.environ, CREDENTIALS):
            for pair in PAIRS:
                rows.append([server.name, *map(str, pair), *uvloop.run(measured(running.url, server, *pair, count))])
    headings = ["broker", "concurrency", "prefetch", "messages/s", "less busy of two", "repeats after a kill"]
    report.table(headings, rows)


async def measured(url: str, server: Server, concurrency: int, prefetch: int, count: int) -> list[str]:
    """The cells of one row."""
    rates = await best(url, Case(prefetch=prefetch, concurrency=concurrency), count // server.part)
    shares = await shared(url, concurrency, prefetch)
    more = ("&" if "?" in url else "?") + server.lease if server.lease else ""
    repeats = await asyncio.to_thread(repeated, url + more, concurrency, prefetch)
    return [f"{rates.consume:,.0f}", f"{min(shares) / sum(shares):.0%}", str(repeats)]


async def shared(url: str, concurrency: int, prefetch: int) -> list[int]:
    """How many each of two gets who begin together."""
    exchange, got, both = f"fair{new_id()}", [0, 0], []
    done = asyncio.Event()

    def declared(number: int) -> Any:
        @consumer(exchange=exchange, id="q", concurrency=concurrency, prefetch=prefetch)
        async def handler(body: bytes) -> None:
            await asyncio.sleep(SLOW)
            got[number] += 1
            if sum(got) >= FAIR:
                done.set()

        return handler

    for number in range(2):
        brokers = Brokers(Settings(brokers={"main": url}))
        channel = Channel(Step(declared(number), brokers.publish, {}), brokers.route(exchange))
        await channel.declare()
        both.append((brokers, channel))
    await asyncio.gather(*(both[0][0].publish(Message(body=b"x", exchange=exchange)) for _ in range(FAIR)))
    for _, channel in both:
        channel.start(declared=True)
    await done.wait()
    for brokers, channel in both:
        await channel.drain(5.0)
        await brokers.close()
    return got


def repeated(url: str, concurrency: int, prefetch: int) -> int:
    """How many messages are handled twice since the process was killed."""
    exchange = f"killed{new_id()}"
    with tempfile.TemporaryDirectory(prefix="mqasync-bench-") as directory:
        handled = Path(directory, "handled")
        source = SERVICE.format(exchange=exchange, concurrency=concurrency, prefetch=prefetch)
        Path(directory, "service.py").write_text(source)
        asyncio.run(fill(url, exchange))
        handled.touch()
        for enough in (KILLED // 3, KILLED):
            command = [sys.executable, "-m", "mqasync", "run", "service", "--broker", url]
            with subprocess.Popen(command, cwd=directory, stderr=subprocess.DEVNULL) as process:
                deadline = time.monotonic() + PATIENCE
                while len(set(handled.read_text().split())) < enough and time.monotonic() < deadline:
                    time.sleep(0.005)
                process.send_signal(signal.SIGKILL)
        lines = handled.read_text().split()
        assert len(set(lines)) == KILLED, f"{KILLED - len(set(lines))} of {KILLED} messages did not come back"
        return len(lines) - KILLED


async def fill(url: str, exchange: str) -> None:
    """The messages that wait."""
    brokers = Brokers(Settings(brokers={"main": url}))
    await brokers.route(exchange).call(lambda transport: transport.declare(exchange, "q"))
    await asyncio.gather(*(brokers.publish(Message(body=b"x" * 100, exchange=exchange)) for _ in range(KILLED)))
    await brokers.close()
