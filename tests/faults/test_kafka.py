"""Kafka itself killed or frozen while messages flow; nothing confirmed is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from ..conftest import required
from ..servers.kafka import Kafka, kafka
from .conftest import Record
from .load import MESSAGES, loads


@pytest.fixture(scope="module")
def server() -> Iterator[Kafka]:
    with required(kafka()) as running:
        yield running


def test_a_killed_kafka_loses_nothing(server: Kafka, record: Record) -> None:
    with loads(server.url, MESSAGES) as running:
        for load in running:
            load.until_confirmed(0.2)
        server.kill()
        for load in running:
            load.until(lambda load=load: load.state == "not connected", "its end is noticed")  # type: ignore[misc]
        server.start()
        back = time.monotonic()
        for load in running:
            load.finish()
    record("Kafka", "killed (SIGKILL) and started again", running, back)


def test_a_frozen_kafka_loses_nothing(server: Kafka, record: Record) -> None:
    assert server.process
    with loads(server.url, MESSAGES) as running:
        for load in running:
            load.until_confirmed(0.2)
        server.process.send_signal(signal.SIGSTOP)
        for load in running:  # longer than it takes to give it up
            load.until(lambda load=load: load.state == "not connected", "its silence is noticed")  # type: ignore[misc]
        server.process.send_signal(signal.SIGCONT)
        back = time.monotonic()
        for load in running:
            load.finish()
    record("Kafka", "frozen (SIGSTOP) until it was given up", running, back, within=10.0)
