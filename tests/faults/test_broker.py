"""RabbitMQ itself killed, stopped, frozen, out of memory or closing connections while messages flow."""

from __future__ import annotations

import os
import signal
import time

from ..brokers import RabbitMQ
from .conftest import Record
from .load import MESSAGES, loads


def test_a_killed_broker_loses_nothing(server: RabbitMQ, record: Record) -> None:
    with loads(server.url, MESSAGES) as running:
        for load in running:
            load.until_confirmed(0.2)
        server.kill()
        server.start()
        back = time.monotonic()
        server.elect()
        for load in running:
            load.finish()
    record("RabbitMQ", "killed (SIGKILL) and started again", running, back)


def test_a_killed_broker_with_classic_queues_loses_nothing(server: RabbitMQ, record: Record) -> None:
    with loads(server.url, MESSAGES, options={"x-queue-type": "classic"}) as running:
        for load in running:
            load.until_confirmed(0.2)
        server.kill()
        server.start()
        back = time.monotonic()
        for load in running:
            load.finish()
    record("RabbitMQ", "killed, classic queues", running, back)


def test_a_broker_that_is_stopped_in_order_loses_nothing(server: RabbitMQ, record: Record) -> None:
    with loads(server.url, MESSAGES) as running:
        for load in running:
            load.until_confirmed(0.2)
        server.control("stop_app")
        server.control("start_app")
        back = time.monotonic()
        server.elect()
        for load in running:
            load.finish()
    record("RabbitMQ", "stopped and started (stop_app, start_app)", running, back)


def test_a_frozen_broker_loses_nothing(server: RabbitMQ, record: Record) -> None:
    assert server.process
    with loads(f"{server.url}?heartbeat=2", MESSAGES) as running:
        for load in running:
            load.until_confirmed(0.2)
        os.killpg(server.process.pid, signal.SIGSTOP)
        for load in running:  # longer than it takes to give it up
            load.until(lambda load=load: load.state == "not connected", "its silence is noticed")  # type: ignore[misc]
        os.killpg(server.process.pid, signal.SIGCONT)
        back = time.monotonic()
        for load in running:
            load.finish()
    record("RabbitMQ", "frozen (SIGSTOP) until heartbeats were missed", running, back)


def test_a_memory_alarm_stops_publishers_and_nobody_else(server: RabbitMQ, record: Record) -> None:
    with loads(server.url, MESSAGES) as running:
        for load in running:
            load.hold.clear()  # before all is published
        # When the broker blocks those who publish
        server.control("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            for load in running:
                load.hold.set()
                load.until(lambda load=load: load.state.startswith("blocked"), "it is blocked and says so")  # type: ignore[misc]
        finally:
            server.control("set_vm_memory_high_watermark", "absolute", "2GB")
        back = time.monotonic()
        for load in running:
            load.finish()
            assert load.brokers.route(load.exchange).reconnects == 0
    record("RabbitMQ", "memory alarm", running, back)


def test_connections_closed_by_the_administrator_lose_nothing(server: RabbitMQ, record: Record) -> None:
    with loads(server.url, MESSAGES) as running:
        for load in running:
            load.hold.clear()
        server.control("close_all_connections", "maintenance")
        back = time.monotonic()
        for load in running:
            load.hold.set()
        for load in running:
            load.finish()
    record("RabbitMQ", "connections closed by the administrator", running, back)
