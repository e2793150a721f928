"""SQLite: the disk full, a process killed in mid-write, two processes on one file; nothing confirmed is lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Record
from .load import LOOPS, MESSAGES, Load, loads


def fill(directory: Path) -> Path:
    """Write until nothing more fits."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                return ballast


def test_a_full_disk_loses_nothing(small_disk: Path, record: Record, caplog: pytest.LogCaptureFixture) -> None:
    with loads(f"sqlite:{small_disk}/test.db?lease=2", MESSAGES) as running:
        for load in running:
            load.until_confirmed(0.2)
        ballast = fill(small_disk)
        for load in running:
            load.until(lambda: "is full: publishing waits for consumers" in caplog.text, "the full disk is noticed")
        ballast.unlink()
        back = time.monotonic()
        for load in running:
            load.finish()
    record("SQLite", "disk full for a while", running, back)


PUBLISHER = """
import asyncio, sys
from mqasync import Message
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings

async def main(url, exchange, first):
    brokers = Brokers(Settings(brokers={"main": url}))
    async def publish(n):
        await brokers.publish(Message(body=b'{"n": %d}' % n, exchange=exchange))
        sys.stdout.write(f"{n}\\n")
        sys.stdout.flush()
    n = int(first)
    while True:
        await asyncio.gather(*(publish(i) for i in range(n, n + 20)))
        n += 20

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_publisher_killed_in_mid_write_loses_nothing_that_was_confirmed(tmp_path: Path, record: Record) -> None:
    """Two processes on one file: this one consumes, the other one is killed while it writes, ten times."""
    url = f"sqlite:{tmp_path}/test.db?lease=2"
    chance = random.Random(3)
    load = Load(url, 10**9, next(iter(LOOPS)))
    load.start()
    load.stop = True  # from here on the other process publishes
    told: set[int] = set()
    for life in range(10):
        first = 1_000_000 * (life + 1)
        command = [sys.executable, "-c", PUBLISHER, url, load.exchange, str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(chance.randint(50, 500))]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        told |= {int(line) for line in lines if line.endswith("\n")}
    back = time.monotonic()
    load.ledger.confirmed |= told
    load.finish()
    assert len(told) >= 500
    record("SQLite", "publishing process killed in mid-write, 10 times", [load], back)
