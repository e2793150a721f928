"""NATS itself killed or frozen while messages flow."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ..conftest import required
from ..servers.nats import NATS, running_nats
from .conftest import Record
from .load import MESSAGES, loads


@pytest.fixture(scope="module")
def nats() -> Iterator[NATS]:
    """One server for the tests that break it; each leaves it running."""
    with required(running_nats()) as server:
        yield server


def test_a_killed_server_loses_nothing(nats: NATS, record: Record) -> None:
    with loads(f"{nats.url}?lease=3", MESSAGES // 2) as running:
        for load in running:
            load.until_confirmed(0.2)
        nats.kill()
        nats.start()
        back = time.monotonic()
        for load in running:
            load.finish()
    record("NATS", "killed (SIGKILL) and started again", running, back)


def test_a_frozen_server_loses_nothing(nats: NATS, record: Record) -> None:
    with loads(f"{nats.url}?lease=3", MESSAGES // 2) as running:
        for load in running:
            load.until_confirmed(0.2)
        nats.pause()
        for load in running:  # longer than it takes to give it up
            load.until(lambda load=load: load.state == "not connected", "its silence is noticed")  # type: ignore[misc]
        nats.go_on()
        back = time.monotonic()
        for load in running:
            load.finish()
    record("NATS", "frozen (SIGSTOP) until it was given up", running, back)
