"""Redis itself killed, frozen or out of memory while messages flow; nothing confirmed is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from ..conftest import required
from ..servers.redis import DurableRedis, durable_redis
from .conftest import Record
from .load import loads

MESSAGES = 2000


@pytest.fixture(scope="module")
def fragile_redis() -> Iterator[DurableRedis]:
    """One Redis for all the tests that break it; each leaves it running."""
    with required(durable_redis()) as server:
        yield server


def test_a_killed_redis_loses_nothing(fragile_redis: DurableRedis, record: Record) -> None:
    with loads(f"{fragile_redis.url}?lease=2", MESSAGES) as running:
        for load in running:
            load.until_confirmed(0.2)
        fragile_redis.kill()
        fragile_redis.start()
        back = time.monotonic()
        for load in running:
            load.finish()
            assert load.brokers.route(load.exchange).reconnects >= 1
    record("Redis", "killed (SIGKILL) and started again", running, back)


def test_a_frozen_redis_loses_nothing(fragile_redis: DurableRedis, record: Record) -> None:
    assert fragile_redis.process
    with loads(f"{fragile_redis.url}?lease=2", MESSAGES) as running:
        for load in running:
            load.until_confirmed(0.2)
        fragile_redis.process.send_signal(signal.SIGSTOP)
        for load in running:  # longer than it takes to give it up
            load.until(lambda load=load: load.state == "not connected", "its silence is noticed")  # type: ignore[misc]
        fragile_redis.process.send_signal(signal.SIGCONT)
        back = time.monotonic()
        for load in running:
            load.finish()
    record("Redis", "frozen (SIGSTOP) until it was given up", running, back)


def test_a_redis_out_of_memory_stops_publishers_and_loses_nothing(fragile_redis: DurableRedis, record: Record) -> None:
    with loads(f"{fragile_redis.url}?lease=2", MESSAGES) as running:
        for load in running:
            load.until_confirmed(0.2)
        refused = errors(fragile_redis)
        fragile_redis.command("CONFIG", "SET", "maxmemory", "1")
        for load in running:
            load.until(lambda: errors(fragile_redis) > refused, "a publisher is refused")
        fragile_redis.command("CONFIG", "SET", "maxmemory", "0")
        back = time.monotonic()
        for load in running:
            load.finish()
            assert load.brokers.route(load.exchange).reconnects == 0
    record("Redis", "out of memory for a while", running, back)


def errors(server: DurableRedis) -> int:
    """How often it refused a command for want of memory."""
    lines = server.command("INFO", "errorstats").splitlines()
    return sum(int(line.partition("count=")[2]) for line in lines if line.startswith("errorstat_OOM"))
