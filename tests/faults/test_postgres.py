"""PostgreSQL killed, its connections ended, or the way to it cut while messages flow; nothing confirmed is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from ..conftest import required
from ..servers.postgres import Postgres, running_postgres
from .conftest import Record
from .load import MESSAGES, loads
from .proxy import DOWN, UP, Proxy


@pytest.fixture(scope="module")
def fragile_postgres() -> Iterator[Postgres]:
    """One PostgreSQL for the tests here; each leaves it running."""
    with required(running_postgres()) as server:
        yield server


def test_a_killed_server_loses_nothing(fragile_postgres: Postgres, record: Record) -> None:
    with loads(f"{fragile_postgres.url}&lease=2", MESSAGES // 2) as running:
        for load in running:
            load.until_confirmed(0.2)
        fragile_postgres.kill()
        fragile_postgres.start()
        back = time.monotonic()
        for load in running:
            load.finish()
            assert load.brokers.route(load.exchange).reconnects > 0, "it was struck"
    record("PostgreSQL", "killed (SIGKILL) and started again", running, back)


def test_a_server_that_one_crashed_backend_makes_recover_loses_nothing(
    fragile_postgres: Postgres, record: Record
) -> None:
    assert fragile_postgres.process
    with loads(f"{fragile_postgres.url}&lease=2", MESSAGES // 2) as running:
        for load in running:
            load.until_confirmed(0.2)
        pid = fragile_postgres.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'mqasync' LIMIT 1")
        os.kill(int(pid), signal.SIGKILL)
        back = time.monotonic()
        for load in running:
            load.finish()
            assert load.brokers.route(load.exchange).reconnects > 0, "it was struck"
    record("PostgreSQL", "one of its processes killed, all restart", running, back)


def test_connections_ended_by_the_administrator_lose_nothing(fragile_postgres: Postgres, record: Record) -> None:
    with loads(f"{fragile_postgres.url}&lease=2", MESSAGES // 2) as running:
        for part in (0.2, 0.4, 0.6):
            for load in running:
                load.until_confirmed(part)
            fragile_postgres.end_connections()
            back = time.monotonic()
        for load in running:
            load.finish()
            assert load.brokers.route(load.exchange).reconnects > 0, "they were struck"
    record("PostgreSQL", "connections ended by the administrator, 3 times", running, back)


def test_a_way_that_swallows_everything_loses_nothing(
    fragile_postgres: Postgres, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqasync.brokers.calls.PING_SECONDS", 0.7)
    with Proxy(fragile_postgres.port) as proxy:
        url = fragile_postgres.url.replace(f":{fragile_postgres.port}/", f":{proxy.port}/")
        with loads(f"{url}&lease=2", MESSAGES // 2) as running:
            for load in running:
                load.until_confirmed(0.2)
            proxy.black_hole(UP, DOWN)
            back = time.monotonic()
            for load in running:
                load.finish()
                assert load.brokers.route(load.exchange).reconnects > 0, "it was struck"
    record("PostgreSQL", "black hole in both directions, given up after 2 s", running, back, within=8.0)


def test_a_frozen_server_loses_nothing(
    fragile_postgres: Postgres, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqasync.brokers.calls.PING_SECONDS", 0.3)
    assert fragile_postgres.process
    with loads(f"{fragile_postgres.url}&lease=2", MESSAGES // 2) as running:
        for load in running:
            load.until_confirmed(0.2)
        first = psutil.Process(fragile_postgres.process.pid)
        family = [first, *first.children(recursive=True)]
        for process in family:
            process.suspend()
        try:
            for load in running:
                load.until(lambda load=load: load.state == "not connected", "its silence is noticed")  # type: ignore[misc]
        finally:
            for process in family:
                process.resume()
        back = time.monotonic()
        for load in running:
            load.finish()
    record("PostgreSQL", "frozen (SIGSTOP) until it was given up", running, back, within=8.0)
