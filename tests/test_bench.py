"""`make bench` prints every figure; how large they are is never asserted, the machines are noisy."""

import subprocess
import sys
from pathlib import Path

from .brokers import RabbitMQ


def test_the_benchmark_prints_every_figure(rabbitmq_server: RabbitMQ) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "rabbitmq", "sqlite", "start"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for row in (
        "consume, handle and acknowledge",
        "publish confirmed",
        "aiormq",
        "a commit a row",
        "p99",
        "idle service",
    ):
        assert row in done.stdout
