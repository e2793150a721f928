"""SQS: the server frozen under load, a consuming process killed; nothing confirmed is lost.

moto keeps everything in memory, so a kill and restart of the server cannot be tested with it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import required
from ..servers.sqs import Moto, moto
from .conftest import Record
from .load import MESSAGES, Load, loads
from .test_processes import SINK, handled, queue_exists, service

FEW = min(MESSAGES, 800)  # moto takes about 50 a second through step and sink


@pytest.fixture(scope="module")
def server() -> Iterator[Moto]:
    """One that the tests of this module may freeze."""
    with required(moto()) as running:
        yield running


@pytest.fixture
def url(server: Moto, aws: None) -> Iterator[str]:
    yield server.url
    server.go_on()


def test_a_frozen_server_loses_nothing(server: Moto, url: str, record: Record) -> None:
    with loads(url, FEW) as running:
        for load in running:
            load.until_confirmed(0.2)
        server.pause()
        for load in running:  # longer than a request may take
            load.until(lambda load=load: load.state == "not connected", "its silence is noticed")  # type: ignore[misc]
        server.go_on()
        back = time.monotonic()
        for load in running:
            load.finish()
    # receives that came while it was frozen have taken messages for nobody, until their leases of 3 s end
    record("SQS (moto)", "frozen (SIGSTOP) until requests timed out", running, back, within=10.0)


def test_a_killed_consumer_loses_nothing(url: str, tmp_path: Path, record: Record) -> None:
    load = Load(url, FEW, "uvloop")
    (tmp_path / "file_sink.py").write_text(SINK.format(exchange=load.exchange))
    for part in (0.1, 0.4, 0.7, 1.0):
        with service(tmp_path, url) as process:
            if part == 0.1:
                load.until(lambda: queue_exists(process), "it consumes")
                load.start()
            aim = int(part * FEW)
            load.until(lambda aim=aim: len(handled(tmp_path)) >= aim, f"{aim} are handled")  # type: ignore[misc]
            if part < 1.0:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
    load.finish()
    load.ledger.processed = handled(tmp_path)
    load.ledger.buried.clear()
    record("SQS (moto)", "consuming process killed, 3 times", [load], None)
