"""`mqasync check`: what it finds, what it says of it, and with which exit code; it makes no queue."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import msgspec
import pytest

from mqasync import ConfigurationError, Message, consumer, producer
from mqasync.brokers.broker import Brokers
from mqasync.brokers.connection import Connection
from mqasync.config.settings import ExchangeSettings, Settings
from mqasync.message import new_id
from mqasync.operate.checks import Checks
from mqasync.service.discovery import Service
from mqasync.transport import DEAD
from mqasync.transports.memory import MemoryTransport

from .brokers import RabbitMQ
from .commands import CommandLine

SERVICE = """
import os
from mqasync import consumer, producer

EXCHANGE = os.environ["EXCHANGE"]

@producer(exchange=EXCHANGE, id="start")
async def start():
    yield {}

@consumer(exchange=EXCHANGE, id="step", to=f"{EXCHANGE}.out")
async def step(body): ...
"""
NOTHING_YET = "will be created by the first run"


@producer(exchange="in", id="start")
async def start() -> None: ...


@consumer(exchange="in", id="step", to="out")
async def step(body: dict[str, Any]) -> None: ...


SERVICES = [Service("mine", [step], [start], None)]
Found = list[tuple[str, str, str]]


async def findings(url: str, services: list[Service] = SERVICES, **exchanges: ExchangeSettings) -> Found:
    """Without the broker's own."""
    brokers = Brokers(Settings(brokers={"main": url}, exchanges=exchanges))
    try:
        found = await Checks(services, brokers, 10.0).run()
    finally:
        await brokers.close()
    assert (found[0].result, found[0].about) == ("ok", "broker main")
    return [(finding.result, finding.about, finding.detail) for finding in found[1:]]


@pytest.fixture
def url() -> str:
    return f"memory:{new_id()}"


UNHEARD = ("warning", "out", "in/step publishes to it, nothing here consumes it, and no queue is bound to it")


async def test_queues_that_are_not_there_are_not_made(url: str, transport: Connection) -> None:
    assert await findings(url) == [("ok", "in/step", NOTHING_YET), UNHEARD]
    assert await transport.queues() == []


async def test_queues_that_are_there_are_counted_and_dead_letters_told(url: str, transport: Connection) -> None:
    await transport.declare("in", "step")
    await transport.publish("in", [Message(body=b"{}", exchange="in")])
    await transport.declare("in", "step" + DEAD, bound=False)
    assert await findings(url) == [("ok", "in/step", "exists; messages: 1"), UNHEARD]
    await transport.send("in", "step" + DEAD, [Message(body=b"{}", exchange="in")])
    assert await findings(url) == [
        ("ok", "in/step", "exists; messages: 1"),
        ("warning", "in/step", "dead letters: 1"),
        UNHEARD,
    ]


async def test_queues_that_nothing_consumes_are_told_at_the_exchanges_of_the_services_only(
    url: str, transport: Connection
) -> None:
    for exchange, id in [("in", "old"), ("in", "old" + DEAD), ("out", "new"), ("elsewhere", "other")]:
        await transport.declare(exchange, id)
    await transport.subscribe("out", "new", 1)
    assert await findings(url) == [
        ("ok", "in/step", NOTHING_YET),
        ("warning", "in/old", "nothing here consumes it; messages: 0"),
        ("ok", "out/new", "nothing here consumes it; consumers elsewhere: 1, messages: 0"),
    ]
    await transport.send("in", "old" + DEAD, [Message(body=b"{}", exchange="in")])
    assert ("warning", "in/old" + DEAD, "nothing here consumes it; messages: 1") in await findings(url)


@pytest.mark.parametrize("own", [ExchangeSettings(optional=True), ExchangeSettings(requires=["later"])])
async def test_an_output_that_the_configuration_knows_of_is_no_warning(url: str, own: ExchangeSettings) -> None:
    found = await findings(url, out=own)
    assert [result for result, _, _ in found] == ["ok"] * len(found)
    assert (("ok", "out/later", NOTHING_YET) in found) == bool(own.requires)


async def test_a_typo_in_the_names_of_config_yml_is_a_warning(url: str) -> None:
    settings = Settings(
        brokers={"main": url},
        exchanges={"in": ExchangeSettings(), "our": ExchangeSettings(optional=True)},
        consumers={"in/step": {"retries": 1}, "in/stop": {"retries": 2}},
    )
    brokers = Brokers(settings)
    of_services, of_brokers = [await Checks(services, brokers, 10.0).run() for services in (SERVICES, [])]
    await brokers.close()
    but = "of config.yml, but no handler here uses it; in use:"
    assert [tuple(msgspec.structs.astuple(finding)) for finding in of_services[-2:]] == [
        ("warning", "our", f"it is listed in exchanges {but} in, out"),
        ("warning", "in/stop", f"it is listed in consumers {but} in/step"),
    ]
    assert [finding.result for finding in of_brokers] == ["ok"], "without services nobody knows what is used"


async def test_a_broker_that_does_not_list_its_queues_leaves_it_open_who_consumes(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def untold(transport: MemoryTransport) -> None:
        return None

    monkeypatch.setattr(MemoryTransport, "queues", untold)
    detail = "in/step publishes to it, nothing here consumes it, the broker does not report whether others do"
    assert await findings(url) == [("ok", "in/step", NOTHING_YET), ("warning", "out", detail)]


async def test_what_a_server_says_of_itself_is_a_warning(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryTransport, "warning", "it forgets")
    assert ("warning", "broker main", "it forgets") in await findings(url)


class Takes(msgspec.Struct, forbid_unknown_fields=True):
    prefix: str = ""


@asynccontextmanager
async def lifespan(settings: Takes) -> AsyncIterator[dict[str, Any]]:
    raise AssertionError("a check opens no lifespan")
    yield {}


def test_a_wrong_section_of_a_service_is_the_users_mistake(url: str) -> None:
    settings = Settings(brokers={"main": url}, services={"mine": {"prefx": "x"}})
    with pytest.raises(ConfigurationError, match=r"services\.mine in the configuration: .*prefx"):
        Checks([Service("mine", [step], [], lifespan)], Brokers(settings), 1.0)


@pytest.mark.parametrize(
    ("listed", "warned"),
    [
        (["mine", "taker"], ["mine"]),  # it has no lifespan()
        (["takr", "elsewhere"], ["takr"]),
        (["taker", "taken"], []),  # the file may be for other services too
    ],
)
async def test_settings_that_no_lifespan_takes_are_a_warning(url: str, listed: list[str], warned: list[str]) -> None:
    brokers = Brokers(Settings(brokers={"main": url}, services={name: {} for name in listed}))
    found = await Checks([*SERVICES, Service("taker", [], [], lifespan)], brokers, 10.0).run()
    await brokers.close()
    assert [finding.about for finding in found if finding.detail.endswith("no lifespan() here takes it")] == warned


@pytest.fixture
def mine(cli: CommandLine, exchange: str) -> CommandLine:
    cli.environment["EXCHANGE"] = exchange
    cli.file("mine.py", SERVICE)
    return cli


def test_warnings_are_errors_only_with_strict(mine: CommandLine, exchange: str) -> None:
    done = mine.run("check", "mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].split() == ["result", "about", "detail"]
    assert f"{exchange}/step publishes to it, nothing here consumes it, and no queue is bound to it" in done.stdout
    strict = mine.run("check", "mine", "--strict", "--json")
    assert (strict.returncode, strict.stderr) == (1, "mqasync: errors: 0, warnings: 1\n")
    assert [finding["result"] for finding in json.loads(strict.stdout)] == ["ok", "ok", "warning"]
    mine.file("config.yml", f"exchanges: {{{exchange}.out: {{optional: true}}}}")
    assert mine.run("check", "mine", "--strict").returncode == 0


def test_without_a_module_all_configured_brokers_are_checked(mine: CommandLine) -> None:
    mine.file("config.yml", "brokers: {main: 'sqlite:a.db', spare: 'amqp://guest:geheim@127.0.0.1:1/'}")
    done = mine.run("check", "--json", "--wait", "0.5s")
    assert done.returncode == 1
    assert json.loads(done.stdout) == [
        {"result": "ok", "about": "broker main", "detail": "sqlite:a.db answers"},
        {
            "result": "error",
            "about": "broker spare",
            "detail": "no answer from amqp://guest:***@127.0.0.1:1/ within 0.5 s: [Errno 111] Connection refused",
        },
    ]
    assert done.stderr.endswith("mqasync: errors: 1, warnings: 0\n") and "geheim" not in done.stderr
    # a module's check asks only the brokers that it uses
    assert mine.run("check", "mine").returncode == 0


def test_a_broker_that_the_module_does_not_use_is_not_looked_at(mine: CommandLine) -> None:
    mine.file(
        "config.yml",
        "brokers: {main: 'sqlite:a.db', spare: 'package.that.is.Missing:x'}\n"
        "exchanges: {elsewhere: {broker: spare, requires: [one]}}",
    )
    assert mine.run("check", "mine").returncode == 0
    assert mine.run("check").returncode == 2


@pytest.mark.parametrize("cli", ["rabbitmq"], indirect=True)
async def test_a_queue_that_exists_with_other_arguments_is_an_error(
    mine: CommandLine, exchange: str, rabbitmq_server: RabbitMQ
) -> None:
    async with await aio_pika.connect(rabbitmq_server.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(f"{exchange}.step", durable=True)  # of the classic type
    done = mine.run("check", "mine", "--json")
    assert done.returncode == 1, done.stderr
    (error,) = [finding for finding in json.loads(done.stdout) if finding["result"] == "error"]
    assert error["about"] == f"{exchange}/step"
    assert "inequivalent arg" in error["detail"]
