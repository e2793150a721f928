"""`make bench` prints every figure; how large they are is never asserted, the machines are noisy."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import frameworks

from .brokers import BrokerUnavailable, RabbitMQ
from .conftest import unavailable


def bench(*sections: str) -> str:
    """What the quick benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", *sections],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_benchmark_prints_every_figure(rabbitmq_server: RabbitMQ) -> None:
    printed = bench("rabbitmq", "sqlite", "start")
    for row in (
        "consume, handle, acknowledge",
        "publish confirmed",
        "aiormq",
        "a commit a row",
        "p99",
        "idle consumers",
    ):
        assert row in printed


@pytest.mark.timeout(300)  # the frameworks may have to be installed first
def test_the_benchmark_compares_other_frameworks_that_leave_no_message_behind(rabbitmq_server: RabbitMQ) -> None:
    try:
        frameworks.install()
    except BrokerUnavailable as error:
        unavailable(error)
    printed = bench("peers")
    for name in frameworks.PEERS:
        rows = [line for line in printed.splitlines() if line.startswith(f"  {name} ")]
        assert len(rows) == (3 if name in frameworks.ASYNCIO else 2)
