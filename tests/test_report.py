"""What running processes report of themselves, and that it costs nobody anything."""

import asyncio
import logging
from typing import Any

import pytest

from mqasync import BrokerRefused, Message, consumer, producer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.message import new_id
from mqasync.observe.report import STATUS, Reports
from mqasync.service.discovery import Service
from mqasync.service.runner import Runner

from .waiting import until


@consumer(exchange="in", id="q", to="out", retries=0)
async def handler(body: dict[str, Any]) -> dict[str, Any]:
    if body["n"] < 0:
        raise ValueError("negative")
    return body


@consumer(exchange="out", id="sink")
async def sink(body: dict[str, Any]) -> None: ...


@producer(exchange="in", id="source")
async def source() -> Any:
    yield {"n": 1}


@pytest.fixture
def settings() -> Settings:
    return Settings(brokers={"main": f"memory:{new_id()}"})


def services() -> list[Service]:
    return [Service("test", [handler, sink], [source], None)]


async def test_who_listens_hears_of_every_process_what_it_does_and_at_which_rate(settings: Settings) -> None:
    async with Runner(services(), settings, grace=1.0) as runner, Runner(services(), settings, grace=1.0):
        brokers = Brokers(settings)
        async with Reports([brokers.route("in")]) as reports:
            finished = asyncio.create_task(runner.finished())
            await until(lambda: len(reports.now()) == 2, "both processes report")
            assert len({report.process for report in reports.now()}) == 2
            for n in range(-1, 100):
                await runner.brokers.publish(Message(body=b'{"n": %d}' % n, exchange="in"))

            def total(count: str) -> int:
                return sum(getattr(report.consumers["in/q"], count) for report in reports.now())

            def rated() -> bool:
                return any(report.rates["in/q"] > 1 for report in reports.now())

            await until(rated, "the rate is told")
            await until(lambda: total("handled") == 101 and total("dead_lettered") == 1, "everything is counted")
            assert total("failed") == 1
            (error,) = {r.consumers["in/q"].last_error for r in reports.now()} - {""}
            assert "ValueError: negative" in error
            outputs = [report.consumers["in/q"].published.get("out", 0) for report in reports.now()]
            assert sum(outputs) == 101
            assert sum(report.producers["in/source"].published.get("in", 0) for report in reports.now()) == 1
            finished.cancel()
            await asyncio.gather(finished, return_exceptions=True)
        transport = await brokers.route("in").connected()
        assert STATUS not in {exchange for exchange, _ in await transport.queues() or ()}, "nothing is left behind"
        await brokers.close()


async def test_a_process_that_is_gone_is_not_told_of_and_a_strangers_report_harms_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqasync.observe.report.GONE_SECONDS", 0.3)
    monkeypatch.setattr("mqasync.observe.report.HEARD_SECONDS", 0.05)
    brokers = Brokers(settings)
    async with Reports([brokers.route("in")]) as reports:
        async with Runner(services(), settings, grace=1.0):
            await until(lambda: len(reports.now()) == 1, "it reports")
            await brokers.publish(Message(body=b"no report", exchange=STATUS))
        await until(lambda: not reports.now(), "it is forgotten")
    await brokers.close()


async def test_a_broker_that_does_not_allow_reports_stops_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    from mqasync.transports.memory import MemoryTransport

    publish = MemoryTransport.publish

    async def strict(self: MemoryTransport, exchange: str, messages: list[Message]) -> None:
        if exchange == STATUS:
            raise BrokerRefused("no permission")
        await publish(self, exchange, messages)

    monkeypatch.setattr(MemoryTransport, "publish", strict)
    async with Runner(services(), settings, grace=1.0) as runner:
        await until(lambda: "does not report its status: broker main" in caplog.text, "it is said")
        await runner.brokers.publish(Message(body=b'{"n": 1}', exchange="in"))
        await until(lambda: runner.health().consumers["out/sink"].handled == 1, "work goes on")
