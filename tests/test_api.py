"""What a user writes: decorators, signatures, discovery, schedules; no broker but memory."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from mqasync import ConfigurationError, Message, Out, Reject, Unroutable, consumer, producer
from mqasync.brokers.connection import load
from mqasync.config.settings import ExchangeSettings, Settings
from mqasync.core.schedule import Schedule
from mqasync.duration import seconds
from mqasync.handler import Binding, Source
from mqasync.service.discovery import Service, discover
from mqasync.service.runner import Runner
from mqasync.testing import StartService, run_service
from mqasync.transport import Delivery
from mqasync.transports.memory import MemorySubscription, MemoryTransport


class Indicator(msgspec.Struct):
    ip: str


@consumer(exchange="CTH", id="enrich", to="enriched", retries=1)
async def enrich(event: Indicator, message: Message) -> dict[str, Any]:
    """Enrich."""
    if event.ip == "127.0.0.1":
        raise Reject("private")
    return {"ip": event.ip, "attempt": message.attempt}


async def test_a_decorated_handler_is_still_the_plain_coroutine_function() -> None:
    assert getattr(enrich, "__name__", None) == "enrich"
    assert enrich.__doc__ == "Enrich."
    assert isinstance(enrich, Binding)
    assert await enrich(Indicator("192.0.2.1"), Message(body=b"", exchange="CTH")) == {"ip": "192.0.2.1", "attempt": 1}
    with pytest.raises(Reject):
        await enrich(Indicator("127.0.0.1"), Message(body=b"", exchange="CTH"))


async def test_a_service_runs_in_memory_and_shows_what_it_did(mqasync_service: StartService) -> None:
    # Given the handler at work in memory
    service = await mqasync_service(enrich)
    # When a good, a refused and an invalid message are published
    good = await service.publish("CTH", {"ip": "192.0.2.1"})
    await service.publish("CTH", {"ip": "127.0.0.1"})
    await service.publish("CTH", {"no": "ip"})
    await service.quiet()
    # Then the good one's output was published, and the others are dead-lettered with their reasons
    assert service.published("enriched") == [{"ip": "192.0.2.1", "attempt": 1}]
    assert [message.id for message in service.acknowledged] == [good]
    assert sorted(message.headers["dead-reason"] for message in service.dead_lettered) == ["InvalidMessage", "rejected"]
    assert service.retried == []


async def test_outputs_name_other_exchanges_and_several_are_possible(mqasync_service: StartService) -> None:
    @consumer(exchange="in", id="route", to=["one", "two"])
    async def route(body: dict[str, int]) -> AsyncIterator[Any]:
        yield body
        yield Out(body, exchange="three", key="k", headers={"h": "v"}, id="mine")

    service = await mqasync_service(route)
    await service.publish("in", {"n": 1})
    await service.quiet()
    assert service.published("one") == service.published("two") == [{"n": 1}]
    (third,) = service.messages("three")
    assert (third.id, third.key, third.headers, third.producer) == ("mine", "k", {"h": "v"}, "route")
    assert service.messages("one")[0].id != service.messages("two")[0].id


async def test_what_lifespan_yields_is_injected_by_name_and_closed_after_draining() -> None:
    events: list[str] = []

    class Options(msgspec.Struct, forbid_unknown_fields=True):
        greeting: str = "hello"

    @asynccontextmanager
    async def lifespan(options: Options) -> AsyncIterator[dict[str, Any]]:
        events.append("opened")
        yield {"greeting": options.greeting}
        events.append("closed")

    @consumer(exchange="in", id="q")
    async def handler(body: dict[str, int], greeting: str) -> None:
        await asyncio.sleep(0.05)
        events.append(f"{greeting} {body['n']}")

    @producer(exchange="in", id="p")
    async def source(greeting: str) -> AsyncIterator[dict[str, int]]:
        yield {"n": len(greeting)}

    lifespan.__annotations__["options"] = Options  # a local class cannot be found by name

    def runner(**section: str) -> Runner:
        settings = Settings(brokers={"main": "memory:lifespan"}, services={"here": dict(section)})
        return Runner([Service("here", [handler], [source], lifespan)], settings, until_idle=True)

    async with runner(greeting="hi") as running:
        await running.finished()
    assert events == ["opened", "hi 2", "closed"]
    with pytest.raises(ConfigurationError, match=r"services.here in the configuration: .*greting"):
        async with runner(greting="typo"):
            pass


@pytest.mark.parametrize("options", [{"to": 5}, {"retries": -1}, {"retries": True}, {"concurency": 3}])
def test_wrong_options_are_refused_and_named(options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ConfigurationError, match=f"{name}|{value}"):
        Binding(exchange="CTH", id="q", **options)


@pytest.mark.parametrize(
    ("text", "expected"), [("10m", 600.0), ("1.5h", 5400.0), (3, 3.0), ("250ms", 0.25), ("7", 7.0)]
)
def test_durations(text: Any, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-1s", -1, True, None, "1 fortnight", float("inf"), float("nan")])
def test_wrong_durations_are_refused(text: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a duration"):
        seconds(text)


def test_a_schedule_is_once_or_a_period_or_a_cron_expression() -> None:
    now = time.time()
    once, period, cron = Schedule(None), Schedule("10m"), Schedule("* * * * *")
    assert (once.wait(None), once.wait(now)) == (0.0, None)
    assert period.wait(None) == 0.0
    assert period.wait(now) == pytest.approx(600, abs=5)
    assert 0 < (cron.wait(None) or 0) <= 60
    with pytest.raises(ConfigurationError, match="every='sometimes' of a producer is neither"):
        Schedule("sometimes")


@pytest.mark.parametrize(
    ("cron", "zone", "day", "times"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-28", ["28 02:30+01:00", "29 03:00+02:00", "30 02:30+02:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24", ["24 02:30+02:00", "25 02:30+02:00", "26 02:30+01:00"]),
        ("0,30 1-2 * * *", "Europe/Berlin", "2026-03-29", ["29 01:00+01:00", "29 01:30+01:00", "29 03:00+02:00"]),
        ("*/40 * * * *", "Europe/Berlin", "2026-10-25T02:20", ["25 02:40+02:00", "25 02:00+01:00", "25 02:40+01:00"]),
        ("15 1 * * 0", "America/New_York", "2026-10-31", ["01 01:15-04:00", "08 01:15-05:00", "15 01:15-05:00"]),
        ("0 2 * * *", "Australia/Lord_Howe", "2026-10-03", ["03 02:00+10:30", "04 02:30+11:00", "05 02:00+11:00"]),
        ("0 0 * * *", "Asia/Kathmandu", "2026-01-01T00:01", ["02 00:00+05:45", "03 00:00+05:45", "04 00:00+05:45"]),
    ],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "the machine's"])
@pytest.mark.parametrize("early", [0.02, 0.0, -300.0], ids=["woken early", "in time", "run for long"])
def test_each_time_of_a_cron_expression_comes_once_over_both_changes_of_summer_time(
    monkeypatch: pytest.MonkeyPatch, cron: str, zone: str, day: str, times: list[str], named: bool, early: float
) -> None:
    clock = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).timestamp() - 1
    monkeypatch.setattr(time, "time", lambda: clock)
    monkeypatch.setenv("TZ", "Asia/Tokyo" if named else zone)
    schedule = Schedule(cron, zone if named else None)
    came = []
    for _ in times:
        at = clock + (schedule.wait(None) or 0)
        came.append(datetime.fromtimestamp(at, ZoneInfo(zone)).isoformat(" ", "minutes")[8:])
        clock = at - early
    assert came == times


def test_a_time_of_a_cron_expression_that_is_over_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = datetime(2026, 10, 25, 1, 10, tzinfo=UTC).timestamp()  # 02:10 in Berlin for the second time
    monkeypatch.setattr(time, "time", lambda: clock)
    schedule = Schedule("30 2 * * *", "Europe/Berlin")
    assert schedule.wait(None) == 24 * 3600 + 20 * 60
    clock += 72 * 3600
    assert schedule.wait(None) == 20 * 60


def test_a_time_zone_of_the_machine_that_has_no_name_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    with pytest.raises(ConfigurationError, match=r"\(TZ='CET-1CEST,M3.5.0,M10.5.0/3'\) has no name: set TZ to one"):
        Schedule("30 2 * * *")
    Schedule("10m"), Schedule("30 2 * * *", "Europe/Berlin")


def test_discovery_finds_what_a_package_declares_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "found_package"
    package.mkdir()
    (package / "__init__.py").write_text("from .steps import step\n")
    (package / "steps.py").write_text(
        "from mqasync import consumer, producer\n"
        "@consumer(exchange='a', id='b')\nasync def step(body): ...\n"
        "@producer(exchange='a', id='p')\nasync def feed(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    services = discover(["found_package"])
    assert [c.id for service in services for c in service.consumers] == ["b"]
    assert [p.id for service in services for p in service.producers] == ["p"]
    (alone,) = discover(["found_package.steps:feed"])
    assert (alone.consumers, [p.id for p in alone.producers]) == ([], ["p"])
    assert isinstance(alone.producers[0], Source)


def test_importing_mqasync_is_light_and_loads_no_broker_library() -> None:
    heavy = ["aio_pika", "aiormq", "sqlite3", "yaml", "cronsim", "tzlocal", "click", "pytest"]
    code = f"import sys, mqasync; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


async def test_required_queues_exist_before_their_first_consumer_runs() -> None:
    @producer(exchange="in", id="p")
    async def source() -> dict[str, int]:
        return {"n": 1}

    @consumer(exchange="in", id="later")
    async def later(body: dict[str, int]) -> None:
        seen.append(body["n"])

    seen: list[int] = []
    settings = Settings(brokers={"main": "memory:requires"}, exchanges={"in": ExchangeSettings(requires=["later"])})
    keep_alive = load("memory:requires")
    await keep_alive.open()
    async with Runner([Service("first", [], [source], None)], settings, wait=5.0) as runner:
        await runner.finished()
    async with Runner([Service("second", [later], [], None)], settings, until_idle=True) as runner:
        await runner.finished()
    await keep_alive.close()
    assert seen == [1]


async def test_a_producer_waits_for_a_queue_says_so_once_and_gives_up_in_time(caplog: pytest.LogCaptureFixture) -> None:
    @producer(exchange="nobody", id="p")
    async def source() -> AsyncIterator[dict[str, int]]:
        for n in range(3):
            yield {"n": n}

    runner = Runner([Service("here", [], [source], None)], Settings(brokers={"main": "memory:nobody"}), wait=0.6)
    with pytest.raises(Unroutable, match="nobody"):
        async with runner:
            await runner.finished()
    assert caplog.text.count("no queue is bound to exchange 'nobody' yet; waiting for a consumer") == 1


async def test_concurrent_publishes_and_acknowledgements_reach_the_transport_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published: list[int] = []
    acknowledged: list[int] = []
    publish, ack = MemoryTransport.publish, MemorySubscription.ack

    async def counting_publish(self: MemoryTransport, exchange: str, messages: Sequence[Message]) -> None:
        if exchange == "in":  # not what the process reports of itself
            published.append(len(messages))
        await publish(self, exchange, messages)

    async def counting_ack(self: MemorySubscription, deliveries: Sequence[Delivery]) -> None:
        acknowledged.append(len(deliveries))
        await ack(self, deliveries)

    monkeypatch.setattr(MemoryTransport, "publish", counting_publish)
    monkeypatch.setattr(MemorySubscription, "ack", counting_ack)

    @consumer(exchange="in", id="q", prefetch=100)
    async def handler(body: dict[str, int]) -> None: ...

    async with run_service(handler) as service:
        await asyncio.gather(*(service.publish("in", {"n": n}) for n in range(200)))
        await service.quiet()
    assert sum(published) == sum(acknowledged) == 200
    assert len(published) == 1
    assert len(acknowledged) <= 20
