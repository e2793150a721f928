"""A RabbitMQ that may be broken, a proxy in front of it, and the report; no fault is made here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..brokers import RabbitMQ, rabbitmq
from ..conftest import required
from . import report
from .load import MESSAGES, Load, loads, reconnected
from .proxy import Proxy


@pytest.fixture(scope="session")
def fragile_rabbitmq() -> Iterator[RabbitMQ]:
    """One RabbitMQ for all the tests that break it; each leaves it running."""
    with required(rabbitmq()) as server:
        yield server


@pytest.fixture
def server(fragile_rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    """It runs before the test and after it."""
    yield fragile_rabbitmq
    fragile_rabbitmq.heal()


@pytest.fixture
def proxy(server: RabbitMQ) -> Iterator[Proxy]:
    """The way to it."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def record() -> Record:
    """`record(loads, ...)` checks the ledgers and puts a row into the report."""
    return Record()


class Record:
    """The oracle: nothing confirmed is lost, the queues are empty, and recovery took no longer than allowed."""

    def survives(
        self,
        broker: str,
        fault: str,
        url: str,
        strike: Callable[[list[Load]], float | None],
        messages: int = MESSAGES,
        within: float = 5.0,
        struck: bool = True,
        **options: Any,
    ) -> None:
        """Strike when a fifth of the messages is confirmed: then all has to come through.

        `strike` returns when (time.monotonic) the broker was there again, or None for now. If the load was `struck`,
        connections were lost, and else none.
        """
        with loads(url, messages, **options) as running:
            for load in running:
                load.until_confirmed(0.2)
            back = strike(running) or time.monotonic()
            for load in running:
                load.finish()
        self(broker, fault, running, back, within)
        assert {reconnected(load) for load in running} == {struck}

    def __call__(
        self, broker: str, fault: str, loads: list[Load], back: float | None, within: float = 5.0, remark: str = ""
    ) -> None:
        ledgers = [load.ledger for load in loads]
        recovery = None if back is None else max(ledger.silence(back) for ledger in ledgers)
        row = report.Row(
            broker=broker,
            fault=fault,
            confirmed=sum(len(ledger.confirmed) for ledger in ledgers),
            lost=sum(len(ledger.lost) for ledger in ledgers),
            repeated=sum(ledger.repeated for ledger in ledgers),
            recovery=recovery,
            remark=remark,
        )
        report.ROWS.append(row)
        missing = [sorted(ledger.lost)[:20] for ledger in ledgers]
        assert row.lost == 0, (
            f"{missing} were confirmed and are lost; left in queues: {[load.depths for load in loads]}"
        )
        for load in loads:
            queues = {name: depth for name, depth in load.depths.items() if name != "dead"}
            assert set(queues.values()) == {0}, f"{queues} are left on {load.loop_name}"
            dead_lettered = len(load.ledger.dead_lettered) - load.deleted_dead
            assert load.depths["dead"] >= dead_lettered, "what was dead-lettered is in the dead-letter queue"
        assert recovery is None or recovery <= within, f"it took {recovery:.1f} s, {within:g} s are allowed"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, and write it where `make faults` asks for it."""
    if report.ROWS:
        terminalreporter.section("faults")
        terminalreporter.write_line(report.table())
        if os.environ.get("MQASYNC_RELIABILITY") == "write":
            report.write()
