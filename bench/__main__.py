"""`python -m bench [--quick]`: every figure, from one run on one machine; its own RabbitMQ, its own files."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import uvloop

from tests.brokers import rabbitmq

from . import rabbitmq as rabbitmq_bench
from . import sqlite as sqlite_bench
from . import start as start_bench


def main() -> None:
    """Run all benchmarks."""
    quick = "--quick" in sys.argv
    rounds, count = (2, 1_000) if quick else (5, 10_000)
    with rabbitmq() as server, tempfile.TemporaryDirectory(prefix="mqasync-bench-") as name:
        directory = Path(name)
        uvloop.run(rabbitmq_bench.run(server.url, rounds, count))
        uvloop.run(sqlite_bench.run(directory, rounds, count))
        start_bench.run(server.url, directory, 3 if quick else 9)


if __name__ == "__main__":
    main()
