"""The servers of the other brokers killed, or frozen, while messages flow; nothing confirmed is lost.

RabbitMQ's faults are in files of their own, and so are those of SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pytest

from ..conftest import required
from ..servers.activemq import running_activemq
from ..servers.kafka import kafka
from ..servers.nats import running_nats
from ..servers.postgres import running_postgres
from ..servers.redis import DurableRedis, durable_redis
from ..servers.sqs import moto
from .conftest import Record
from .load import FEW, MESSAGES, Load
from .proxy import DOWN, UP, Proxy


class Kind(NamedTuple):
    """How a server is started, what its URL says of leases, and how many messages take it some seconds."""

    start: Callable[[], AbstractContextManager[Any]]
    query: str
    messages: int


KINDS = {
    "ActiveMQ": Kind(running_activemq, "", MESSAGES),
    "Kafka": Kind(kafka, "", MESSAGES),
    "NATS": Kind(running_nats, "?lease=3", MESSAGES),
    "PostgreSQL": Kind(running_postgres, "&lease=2", MESSAGES),
    "Redis": Kind(durable_redis, "?lease=2", MESSAGES),
    "SQS (moto)": Kind(moto, "", FEW),
}
DURABLE = [name for name in KINDS if name != "SQS (moto)"]  # moto keeps everything in memory


class Fragile(NamedTuple):
    """A server that is broken here."""

    name: str
    server: Any
    url: str
    messages: int


@pytest.fixture(scope="module", params=KINDS)
def fragile(request: pytest.FixtureRequest) -> Iterator[Fragile]:
    """One server of each kind for the tests that break it; each leaves it running."""
    kind = KINDS[request.param]
    with pytest.MonkeyPatch.context() as patch, required(kind.start()) as server:
        for name, value in getattr(server, "environment", {}).items():
            patch.setenv(name, value)
        yield Fragile(request.param, server, server.url + kind.query, kind.messages)


@pytest.mark.parametrize("fragile", DURABLE, indirect=True)
def test_a_killed_server_loses_nothing(fragile: Fragile, record: Record) -> None:
    def strike(running: list[Load]) -> None:
        fragile.server.kill()
        fragile.server.start()

    record.survives(fragile.name, "killed (SIGKILL) and started again", fragile.url, strike, messages=fragile.messages)


def test_a_frozen_server_loses_nothing(fragile: Fragile, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqasync.brokers.calls.PING_SECONDS", 1.0)

    def strike(running: list[Load]) -> None:
        fragile.server.pause()
        try:
            for load in running:
                load.until(lambda load=load: load.state == "not connected", "its silence is noticed")  # type: ignore[misc]
        finally:
            fragile.server.go_on()

    # what came while it was frozen may have taken messages for nobody, until their leases end
    fault = "frozen (SIGSTOP) until it was given up"
    record.survives(fragile.name, fault, fragile.url, strike, messages=fragile.messages, within=10.0)


# PostgreSQL


@pytest.mark.parametrize("fragile", ["PostgreSQL"], indirect=True)
def test_a_server_that_one_crashed_backend_makes_recover_loses_nothing(fragile: Fragile, record: Record) -> None:
    def strike(running: list[Load]) -> None:
        fragile.server.crash()

    fault = "one of its processes killed, all restart"
    record.survives(fragile.name, fault, fragile.url, strike, messages=fragile.messages)


@pytest.mark.parametrize("fragile", ["PostgreSQL"], indirect=True)
def test_connections_ended_by_the_administrator_lose_nothing(fragile: Fragile, record: Record) -> None:
    def strike(running: list[Load]) -> None:
        for part in (0.2, 0.4, 0.6):
            for load in running:
                load.until_confirmed(part)
            fragile.server.end_connections()

    fault = "connections ended by the administrator, 3 times"
    record.survives(fragile.name, fault, fragile.url, strike, messages=fragile.messages)


@pytest.mark.parametrize("fragile", ["PostgreSQL"], indirect=True)
def test_a_way_that_swallows_everything_loses_nothing(
    fragile: Fragile, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqasync.brokers.calls.PING_SECONDS", 0.7)
    with Proxy(fragile.server.port) as proxy:
        url = fragile.url.replace(f":{fragile.server.port}/", f":{proxy.port}/")
        fault = "black hole in both directions, given up after 2 s"
        record.survives(
            fragile.name, fault, url, lambda _: proxy.black_hole(UP, DOWN), messages=fragile.messages, within=8.0
        )


# Redis


@pytest.mark.parametrize("fragile", ["Redis"], indirect=True)
def test_a_server_out_of_memory_stops_publishers_and_loses_nothing(fragile: Fragile, record: Record) -> None:
    def strike(running: list[Load]) -> None:
        refused = errors(fragile.server)
        fragile.server.command("CONFIG", "SET", "maxmemory", "1")
        running[0].until(lambda: errors(fragile.server) > refused, "a publisher is refused")
        fragile.server.command("CONFIG", "SET", "maxmemory", "0")

    record.survives(
        fragile.name, "out of memory for a while", fragile.url, strike, messages=fragile.messages, struck=False
    )


def errors(server: DurableRedis) -> int:
    """How often it refused a command for want of memory."""
    lines = server.command("INFO", "errorstats").splitlines()
    return sum(int(line.partition("count=")[2]) for line in lines if line.startswith("errorstat_OOM"))
