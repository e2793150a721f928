"""`python -m bench [--quick] [--write] [SECTION...]`: every figure, from one run, with servers of its own.

Sections are those of SECTIONS, all of them by default. `--write` makes docs/performance.md of what was measured;
`--rabbitmq=URL` takes that RabbitMQ, which keeps some queues, instead of a new one for each section.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from tests.brokers import rabbitmq
from tests.servers.redis import durable_redis

from . import curves as curves_bench
from . import defaults as defaults_bench
from . import frameworks
from . import losses as losses_bench
from . import rabbitmq as rabbitmq_bench
from . import scale as scale_bench
from . import sqlite as sqlite_bench
from . import start as start_bench
from . import transports as transports_bench
from .report import Report

RABBITMQ = "--rabbitmq="


@contextmanager
def broker() -> Iterator[str]:
    """The URL of a RabbitMQ of its own, or of the one that is named."""
    named = [word.removeprefix(RABBITMQ) for word in sys.argv[1:] if word.startswith(RABBITMQ)]
    if named:
        yield named[0]
    else:
        with rabbitmq() as server:
            yield server.url


def on_rabbitmq(report: Report, quick: bool) -> None:
    """Beside aio-pika and aiormq."""
    with broker() as url:
        uvloop.run(rabbitmq_bench.run(report, url, *((1, 300) if quick else (5, 10_000))))


def peers(report: Report, quick: bool) -> None:
    """Beside other frameworks."""
    with broker() as url:
        frameworks.run(report, url, *((1, 100) if quick else (3, 2_000)))
    with durable_redis() as server:
        frameworks.on_redis(report, server.url, *((1, 100) if quick else (3, 2_000)))


def losses(report: Report, quick: bool) -> None:
    """What other frameworks lose under faults."""
    losses_bench.run(report, 30 if quick else 300, quick)


def on_sqlite(report: Report, quick: bool) -> None:
    """Beside sqlite3."""
    with tempfile.TemporaryDirectory(prefix="mqasync-bench-") as directory:
        uvloop.run(sqlite_bench.run(report, Path(directory), *((1, 300) if quick else (5, 10_000))))


def transports(report: Report, quick: bool) -> None:
    """Every other broker beside its client library."""
    transports_bench.run(report, *((2, 300) if quick else (3, 5_000)))


def start(report: Report, quick: bool) -> None:
    """Imports and memory."""
    with broker() as url, tempfile.TemporaryDirectory(prefix="mqasync-bench-") as directory:
        start_bench.run(report, url, Path(directory), 3 if quick else 9)


def scale(report: Report, quick: bool) -> None:
    """Workers, consumers, backlog."""
    with broker() as url, tempfile.TemporaryDirectory(prefix="mqasync-bench-") as directory:
        sizes = (200, 10, 0.5, 500) if quick else (10_000, 1_000, 20.0, 1_000_000)
        scale_bench.run(report, url, Path(directory), *sizes)


def curves(report: Report, quick: bool) -> None:
    """Throughput over size, prefetch, concurrency and queues."""
    with broker() as url:
        uvloop.run(curves_bench.run(report, url, quick))


def defaults(report: Report, quick: bool) -> None:
    """What concurrency and prefetch cost and save on each broker."""
    defaults_bench.run(report, 300 if quick else 3_000)


SECTIONS: dict[str, Callable[[Report, bool], None]] = {
    "rabbitmq": on_rabbitmq,
    "peers": peers,
    "losses": losses,
    "sqlite": on_sqlite,
    "transports": transports,
    "start": start,
    "scale": scale,
    "curves": curves,
    "defaults": defaults,
}


def main() -> None:
    """Run the sections that are named, or all."""
    words = [word for word in sys.argv[1:] if not word.startswith(RABBITMQ)]
    options = {word for word in words if word.startswith("--")}
    names = [word for word in words if word not in options] or list(SECTIONS)
    if unknown := sorted({*names} - {*SECTIONS} | options - {"--quick", "--write"}):
        sys.exit(f"{unknown[0]!r} is neither --quick nor --write nor a section: {', '.join(SECTIONS)}")
    report = Report()
    for name in names:
        SECTIONS[name](report, "--quick" in options)
    if "--write" in options:
        report.write()


if __name__ == "__main__":
    main()
