"""RabbitMQ itself killed, stopped, frozen, out of memory or closing connections while messages flow."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from mqasync import Message, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings

from ..brokers import RabbitMQ
from ..commands import CommandLine
from ..working import publish, working
from .conftest import Record
from .load import Load


@pytest.mark.parametrize(("kind", "options"), [("", {}), (", classic queues", {"x-queue-type": "classic"})])
def test_a_killed_broker_loses_nothing(kind: str, options: dict[str, str], server: RabbitMQ, record: Record) -> None:
    def strike(running: list[Load]) -> float:
        server.kill()
        server.start()
        back = time.monotonic()
        server.elect()
        return back

    record.survives("RabbitMQ", f"killed (SIGKILL) and started again{kind}", server.url, strike, options=options)


def test_a_broker_that_is_stopped_in_order_loses_nothing(server: RabbitMQ, record: Record) -> None:
    def strike(running: list[Load]) -> float:
        for load in running:
            load.hold.clear()
        server.control("stop_app")
        for load in running:
            load.hold.set()
        server.control("start_app")
        back = time.monotonic()
        server.elect()
        return back

    record.survives("RabbitMQ", "stopped and started (stop_app, start_app)", server.url, strike)


def test_a_frozen_broker_loses_nothing(server: RabbitMQ, record: Record) -> None:
    def strike(running: list[Load]) -> None:
        server.pause()
        for load in running:  # longer than it takes to give it up
            load.until(lambda load=load: load.state == "not connected", "its silence is noticed")  # type: ignore[misc]
        server.go_on()

    url = f"{server.url}?heartbeat=1"
    record.survives("RabbitMQ", "frozen (SIGSTOP) until heartbeats were missed", url, strike, within=10.0)


def test_a_memory_alarm_stops_publishers_and_nobody_else(server: RabbitMQ, record: Record) -> None:
    def strike(running: list[Load]) -> None:
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

    record.survives("RabbitMQ", "memory alarm", server.url, strike, struck=False)


def test_connections_closed_by_the_administrator_lose_nothing(server: RabbitMQ, record: Record) -> None:
    def strike(running: list[Load]) -> None:
        for load in running:
            load.hold.clear()
        server.control("close_all_connections", "maintenance")
        for load in running:
            load.hold.set()

    record.survives("RabbitMQ", "connections closed by the administrator", server.url, strike)


async def test_draining_and_closing_are_bounded_while_the_broker_is_away(server: RabbitMQ, exchange: str) -> None:
    brokers = Brokers(Settings(brokers={"main": server.url}))
    busy = asyncio.Event()

    @consumer(exchange=exchange, id="q")
    async def handler(body: dict[str, int]) -> None:
        busy.set()
        await asyncio.sleep(0.5)

    # Given a handler in the middle of its work, when the broker dies and we stop
    async with working(brokers, handler, grace=2.0) as (channel,):
        await publish(brokers, exchange, b"{}")
        await busy.wait()
        await asyncio.to_thread(server.kill)
        waiting = brokers.publish(Message(body=b"{}", exchange=exchange))
        started = time.monotonic()
        await channel.drain(2.0)
    for _ in range(2):
        await brokers.close()
    # Then we are done soon, and who still waited for a confirmation is told
    assert time.monotonic() - started < 15
    with pytest.raises(Exception, match="the connection was closed before the broker of"):
        await waiting


STEP = """
from mqasync import consumer

@consumer(exchange="in", id="q")
async def step(body): ...
"""


def test_check_tells_of_a_queue_whose_leader_does_not_answer(server: RabbitMQ, tmp_path: Path) -> None:
    cli = CommandLine(tmp_path, server.url)
    cli.file("mine.py", STEP)
    cli.declare("in", "q")
    # Given a quorum queue whose leader stands still
    server.control("eval", "sys:suspend('%2F_in.q').")
    try:
        done = cli.run("check", "mine", "--json")
    finally:
        server.control("eval", "sys:resume('%2F_in.q').")
    # Then
    assert done.returncode == 1, done.stderr
    told_of = {finding["about"]: finding for finding in json.loads(done.stdout) if finding["result"] == "error"}
    assert "has not answered for 3 s: check whether it has a leader" in told_of["in/q"]["detail"]
