"""`mqasync run --http`: what probes and Prometheus get."""

import json
import signal
import urllib.error
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .brokers import free_port
from .commands import CommandLine, Running, eventually

SERVICE = """
import asyncio, os
from mqasync import Reject, consumer

@consumer(exchange="in", id="step", to="out")
async def step(body):
    if body["n"] == 2:
        raise Reject("two is no good")
    if body["n"] == 9:
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    print("handled", body["n"], flush=True)
    return body

@consumer(exchange="out", id="sink")
async def sink(body): ...
"""


FEEDS = """
from mqasync import producer

@producer(exchange="in", id="bad", every="1h")
async def bad():
    raise OSError("503")

@producer(exchange="in", id="good")
async def good():
    return {"n": 1}
"""


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.file("mine.py", SERVICE)
    return cli


@pytest.fixture
def port() -> int:
    return free_port()


def start(cli: CommandLine, port: int) -> Running:
    running = cli.start("run", "mine", "--http", f"127.0.0.1:{port}")
    running.says("consumer out/sink")
    return running


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def ready(port: int) -> tuple[int, Any]:
    status, body = get(port, "/health/ready")
    return status, json.loads(body)


def metrics(port: int) -> dict[tuple[str, ...], float]:
    """Value by name and labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(get(port, "/metrics")[1])
        for sample in family.samples
    }


def test_probes_and_prometheus_are_told_how_the_process_is(cli: CommandLine, port: int) -> None:
    service = start(cli, port)
    assert get(port, "/health/live")[0] == 200
    eventually(lambda: ready(port)[0] == 200, "every consumer consumes")
    assert ready(port)[1]["consuming"] == {"in/step": True, "out/sink": True}
    cli.run("produce", "--exchange", "in", "--id", "me", stdin='{"n": 1}\n{"n": 2}\n{"n": 9}\n')
    service.says("two is no good")
    eventually(lambda: metrics(port)[("mqasync_messages_handled_total", "out", "sink")] == 1, "one went through")
    now = metrics(port)
    assert now[("mqasync_messages_in_flight", "in", "step")] == 1
    assert now[("mqasync_lag_seconds", "in", "step")] > 0
    assert now[("mqasync_messages_failed_total", "in", "step")] == 1
    assert now[("mqasync_messages_dead_lettered_total", "in", "step")] == 1
    assert now[("mqasync_messages_published_total", "in", "step", "out")] == 1
    assert now[("mqasync_handler_seconds_count", "in", "step")] == 2
    assert now[("mqasync_broker_connected", "main")] == 1
    eventually(lambda: metrics(port).get(("mqasync_queue_dead", "in", "step")) == 1, "the broker tells of dead letters")
    # While it drains it is alive, and not ready
    service.send(signal.SIGTERM)
    service.says("draining")
    eventually(lambda: ready(port)[0] == 503, "it is not ready any more")
    assert get(port, "/health/live")[0] == 200
    cli.file("go", "")
    assert service.ends() == 0


def test_a_service_whose_broker_is_away_is_alive_and_not_ready(cli: CommandLine, port: int) -> None:
    cli.environment["MQASYNC_BROKER"] = f"amqp://guest:secret@127.0.0.1:{free_port()}/"
    service = cli.start("run", "mine", "--http", f":{port}")
    service.says("cannot be reached")
    assert get(port, "/health/live")[0] == 200
    status, body = ready(port)
    assert (status, body["started"], body["brokers"]) == (503, False, {"main": "not connected"})
    assert get(port, "/metrics")[0] == 200


def test_a_producer_that_fails_is_told_everywhere_and_the_process_stays_ready(cli: CommandLine, port: int) -> None:
    cli.file("feeds.py", FEEDS)
    service = cli.start("run", "mine", "feeds", "--http", f"127.0.0.1:{port}")
    service.says("the producer failed, next run on schedule: OSError: 503")
    eventually(lambda: ready(port)[0] == 200, "every consumer consumes")
    (failing,) = ready(port)[1]["failing"].items()
    assert failing[0] == "in/bad" and failing[1].startswith("OSError: 503 ")
    eventually(lambda: metrics(port)[("mqasync_messages_handled_total", "in", "step")] == 1, "the other one works")
    now = metrics(port)
    assert (
        now[("mqasync_producer_runs_failed_total", "in", "bad")],
        now[("mqasync_producer_failing", "in", "bad")],
    ) == (
        1,
        1,
    )
    assert now[("mqasync_producer_failing", "in", "good")] == 0
    (process,) = json.loads(cli.run("status", "--json").stdout)["processes"]
    assert process["failing producers"].startswith("in/bad: OSError: 503 ")
    service.send(signal.SIGTERM)
    assert service.ends() == 0


@pytest.mark.parametrize(
    ("address", "problem"),
    [("here", "'here' is not an address"), ("127.0.0.1:0", "not an address"), ("192.0.2.1:8080", "cannot listen")],
)
def test_a_wrong_address_is_one_sentence(cli: CommandLine, address: str, problem: str) -> None:
    done = cli.run("run", "mine", "--http", address)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mqasync: ")]
    assert problem in line


def test_without_the_extra_the_command_says_what_to_install(cli: CommandLine) -> None:
    cli.file("aiohttp.py", "raise ModuleNotFoundError('no', name='aiohttp')")
    done = cli.run("run", "mine", "--http", ":8080")
    assert (done.returncode, done.stderr) == (2, "mqasync: --http needs aiohttp: pip install 'mqasync[http]'\n")
