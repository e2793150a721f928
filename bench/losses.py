"""Messages that mqasync and other frameworks (bench/peers/tasks) lose when a task, a worker or the broker fails."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import aio_pika
import redis

from tests.brokers import RabbitMQ, rabbitmq
from tests.servers.redis import DurableRedis, durable_redis

from .frameworks import ROOT, install, version_of
from .report import Report

TASKS = "bench.peers.tasks"
RABBITMQ = ("mqasync", "faststream", "taskiq", "celery", "dramatiq")
WORKERS = {
    "mqasync": ["mqasync", "run", f"{TASKS}.mqasync", "--broker"],
    "faststream": ["faststream", "run", f"{TASKS}.faststream:app"],
    "taskiq": ["taskiq", "worker", f"{TASKS}.taskiq:broker"],
    "celery": ["celery", "-A", f"{TASKS}.celery", "worker"],
    "dramatiq": ["dramatiq", f"{TASKS}.dramatiq"],
    "intelmq": [f"{TASKS}.intelmq"],
}
"""The command that starts a framework's workers, as its documentation shows it; mqasync's takes the broker's URL."""

FIRST = "as first shown"
SETTINGS = {
    "mqasync": [FIRST],
    "faststream": [FIRST, "`ack_policy=NACK_ON_ERROR`, `on_return_raises=True`"],
    "taskiq": [FIRST, "`SimpleRetryMiddleware`, `retry_on_error=True`"],
    "celery": [FIRST, "`acks_late`, `reject_on_worker_lost`, `confirm_publish`, `autoretry_for`"],
    "dramatiq": [FIRST, "`confirm_delivery=True`"],
    "intelmq": ["`error_retry_delay: 0`"],
}
"""What is set beyond the first example of a framework's documentation; LOSSES_SAFE says whether it is."""

FAULTS = {
    "raises": "every third task raises once",
    "worker": "workers killed 3 times",
    "broker": "broker killed",
    "early": "published before any worker ran",
}
PATIENCE = 120.0  # seconds for what must happen
QUIET = 10.0  # seconds without progress after which the workers are stopped, and the rest is looked for in the queues


class Rabbit:
    """RabbitMQ and its queues."""

    def __init__(self, server: RabbitMQ) -> None:
        self.server, self.url = server, server.url

    def working(self) -> bool:
        """Somebody consumes."""
        return bool(self.server.control("list_consumers").strip())

    def restart(self) -> None:
        """SIGKILL, and start again."""
        self.server.kill()
        self.server.restart()

    def take(self) -> set[str]:
        """The messages in all queues, which are deleted, once those that a killed worker had are in them again."""
        until(lambda: not self.working())
        return asyncio.run(self._take(self.server.control("list_queues", "name", "--no-table-headers").split()))

    async def _take(self, queues: Sequence[str]) -> set[str]:
        found: set[str] = set()
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            for name in queues:
                queue = await channel.get_queue(name)
                while message := await queue.get(no_ack=True, fail=False):
                    found |= names(message.body.decode())
                await queue.delete(if_unused=False, if_empty=False)
        return found


class Redis:
    """A Redis that writes everything to its disk, and the lists and streams in it."""

    def __init__(self, server: DurableRedis) -> None:
        self.server, self.url = server, server.url

    def working(self) -> bool:
        """Not asked here: who publishes is told that there is no queue, or makes it."""
        return True

    def restart(self) -> None:
        """SIGKILL, and start again."""
        self.server.kill()
        self.server.start()

    def take(self) -> set[str]:
        """The messages in all databases, which are emptied."""
        found: set[str] = set()
        for database in (0, 2):  # that of the URL, and IntelMQ's
            with redis.Redis(port=self.server.port, db=database, decode_responses=True) as client:
                for key in client.scan_iter():
                    kind = client.type(key)
                    if kind in ("list", "stream"):
                        found |= names(str(client.lrange(key, 0, -1) if kind == "list" else client.xrange(key)))
                client.flushdb()
        return found


class Trial:
    """One framework under one fault; `ledger` is the directory where its programs note what they do."""

    def __init__(self, python: str, name: str, safe: bool, fault: str, count: int, url: str, ledger: Path) -> None:
        self.fault, self.count, self.ledger = fault, count, ledger
        self.publisher = [python, "-m", TASKS, name]
        self.worker = [python, "-m", *WORKERS[name], *([url] if name == "mqasync" else [])]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "LOSSES_BROKER": url,
            "LOSSES_SAFE": str(safe),
            "LOSSES_FAULT": fault,
            "LOSSES_COUNT": str(count),
            "LOSSES_LEDGER": str(ledger),
        }

    def noted(self, what: str) -> set[str]:
        """The messages in one file of the ledger."""
        file = self.ledger / what
        return names(file.read_text()) if file.exists() else set()

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """A program in a process group of its own; what it prints is beside the ledger."""
        with (self.ledger / "console").open("ab") as console:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=console, stderr=console, start_new_session=True
            )
        self.processes.append(process)
        return process

    def run(self, broker: Rabbit | Redis) -> str:
        """Publish and work with the fault until nothing goes on any more; how many are lost."""
        try:
            if self.fault != "early":
                worker = self.start(self.worker)
                until(broker.working)
            publisher = self.start(self.publisher)
            if self.fault == "worker":
                for part in (1, 2, 3):
                    until(lambda part=part: len(self.noted("begun")) >= self.count * part / 4)  # type: ignore[misc]
                    kill(worker)
                    worker = self.start(self.worker)
            if self.fault == "broker":
                until(lambda: len(self.noted("published")) >= self.count / 3)
                broker.restart()
            publisher.wait(PATIENCE)
            if self.fault == "early":
                self.start(self.worker)
            self.settle()
        finally:
            for process in self.processes:
                kill(process)
        published = self.noted("published")
        lost = published - self.noted("handled") - broker.take()
        refused = self.noted("refused") - published
        return f"{len(lost)} of {len(published)}" + (f", {len(refused)} refused" if refused else "")

    def settle(self) -> None:
        """Wait until all that was published is handled, or nothing has happened for QUIET seconds."""
        before, since = 0, time.monotonic()
        while self.noted("published") - self.noted("handled") and time.monotonic() < since + QUIET:
            now = len(self.noted("handled"))
            if now != before:
                before, since = now, time.monotonic()
            time.sleep(0.1)


def names(text: str) -> set[str]:
    """The messages in a text, whatever is around them."""
    return set(re.findall(r"message-\d+", text))


def until(true: Callable[[], bool]) -> None:
    """Wait until `true()`, for at most PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE:g} s")
        time.sleep(0.005)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for all of its process group, as when a container is killed."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(report: Report, count: int, quick: bool) -> None:
    """Every framework and setting under every fault."""
    about = (
        f"Of {count} messages, those whose publish ended without an error, but whose task never ended and which are in"
        " no queue at the end, dead letters included. Each framework with its program in bench/peers/tasks and its own"
        " command for workers; queues are durable and messages persistent, also where that is not its default. What a"
        " publish raised is published again, except before any worker ran. Workers (all their processes) and the broker"
        " are killed by SIGKILL while messages are published and handled, and started again; Redis writes each command"
        " to its disk (`appendfsync always`)."
    )
    report.heading("Losses beside other frameworks", about)
    with rabbitmq() as server:
        if quick:
            return table(
                report, "lost on RabbitMQ", Rabbit(server), ("mqasync", "faststream"), ("raises", "early"), count
            )
        table(report, "lost on RabbitMQ", Rabbit(server), RABBITMQ, tuple(FAULTS), count)
    with durable_redis() as server:
        table(report, "lost on Redis", Redis(server), ("mqasync", "intelmq"), tuple(FAULTS), count)


def table(
    report: Report, title: str, broker: Rabbit | Redis, frameworks: Sequence[str], faults: Sequence[str], count: int
) -> None:
    """All on one broker."""
    peers = install()
    rows = []
    for name in frameworks:
        python = sys.executable if name == "mqasync" else peers
        for safe, setting in enumerate(SETTINGS[name]):
            row = [f"{name} {version_of(python, name)}", setting]
            for fault in faults:
                with tempfile.TemporaryDirectory(prefix="mqasync-losses-", ignore_cleanup_errors=True) as ledger:
                    row.append(Trial(python, name, bool(safe), fault, count, broker.url, Path(ledger)).run(broker))
            rows.append(row)
    report.table([title, "setting", *(FAULTS[fault] for fault in faults)], rows)
