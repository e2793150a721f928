"""The commands, as real processes on SQLite and RabbitMQ: what they print, how they end, what they leave behind."""

import json
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from mqasync import __version__

from .commands import MQASYNC, PATIENCE, CommandLine, Running

FEED = """
from mqasync import consumer, producer

@producer(exchange="CTH", id="feed")
async def collect():
    for n in range(3):
        yield {"n": n}
"""
STEPS = """
from mqasync import consumer

@consumer(exchange="CTH", id="enrich", to="enriched")
async def enrich(event):
    return {**event, "enriched": True}

@consumer(exchange="enriched", id="show", concurrency=1)
async def show(event):
    print(event["n"])
"""
WAITING = """
import asyncio, os
from mqasync import consumer

@consumer(exchange="CTH", id="q", concurrency=1, prefetch=5)
async def work(event):
    print("begin", event["n"])
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    print("end", event["n"])
"""
QUEUE = ("--exchange", "CTH", "--id", "q")


@pytest.fixture(params=["sqlite", "rabbitmq"])
def any_cli(cli: CommandLine, request: pytest.FixtureRequest) -> CommandLine:
    """Commands on SQLite, then on RabbitMQ."""
    if request.param == "rabbitmq":
        cli.url = cli.environment["MQASYNC_BROKER"] = request.getfixturevalue("rabbitmq_url")
    return cli


@pytest.fixture
def exchange() -> str:
    """A name that nobody else uses on the shared RabbitMQ."""
    return f"CTH-{uuid.uuid4().hex[:8]}"


def bodies(lines: list[str] | str) -> list[int]:
    """The numbers n of the printed messages."""
    return [json.loads(line)["n"] for line in (lines.splitlines() if isinstance(lines, str) else lines)]


def numbered(count: int) -> list[str]:
    return [json.dumps({"n": n}) for n in range(count)]


def begun(cli: CommandLine, count: int, service: str = WAITING, *options: str) -> Running:
    """A service that has begun the first of so many messages."""
    cli.file("waiting.py", service)
    cli.declare("CTH", "q")
    cli.publish("CTH", *numbered(count))
    running = cli.start("run", "waiting", *options)
    running.says("begin 0")
    return running


# run


@pytest.mark.parametrize(
    "names",
    [
        ["feed", "steps"],
        ["pipeline"],
        ["pipeline.feed", "pipeline.steps"],
        ["feed:collect", "steps:enrich", "steps:show"],
    ],
    ids=" ".join,
)
def test_run_until_idle_says_what_is_bound_to_what_works_it_off_and_sums_up(cli: CommandLine, names: list[str]) -> None:
    for folder in ("", "pipeline/"):
        cli.file(f"{folder}feed.py", FEED)
        cli.file(f"{folder}steps.py", STEPS)
    done = cli.run("run", *names, "--until-idle")
    assert (done.returncode, sorted(done.stdout.split())) == (0, ["0", "1", "2"])
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line).rstrip() for line in done.stderr.splitlines()]
    assert lines == [
        f"mqasync {__version__}: {', '.join(names)}",
        f"  producer CTH/feed       publishes to CTH       on main ({cli.url})",
        f"  consumer CTH/enrich     publishes to enriched  on main ({cli.url})",
        f"  consumer enriched/show                         on main ({cli.url})",
        "                 published  handled  retried  dead-lettered",
        "  CTH/feed               3",
        "  CTH/enrich             3        3        0              0",
        "  enriched/show          0        3        0              0",
    ]


def test_run_takes_only_what_module_colon_name_names(cli: CommandLine) -> None:
    cli.file("steps.py", STEPS)
    cli.declare("CTH", "enrich")
    cli.publish("CTH", *numbered(1))
    done = cli.run("run", "steps:show", "--until-idle")
    assert (done.returncode, done.stdout) == (0, "")
    assert "enriched/show" in done.stderr and "CTH/enrich" not in done.stderr
    assert cli.depth("CTH", "enrich") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_running_handlers_finish_puts_back_the_rest_and_ends_with_0(
    cli: CommandLine, number: signal.Signals
) -> None:
    service = begun(cli, 3)
    service.send(number)
    service.says(f"{number.name}: draining; once more forces the shutdown")
    # Then somebody else can have at once what it has not begun
    assert bodies(cli.run("consume", *QUEUE, "-n", "2").stdout) == [1, 2]
    cli.file("go", "")
    assert service.ends() == 0
    assert service.output.text() == "begin 0\nend 0"
    assert re.search(r"CTH/q +0 +1 +0 +0$", service.errors.text())
    assert cli.depth("CTH", "q") == 0


def test_two_signals_at_the_same_moment_are_one(cli: CommandLine) -> None:
    # `timeout`, `uv run` and others pass on the signal that the terminal sends to the whole group
    service = begun(cli, 1)
    service.send(signal.SIGINT)
    service.send(signal.SIGTERM)
    service.says("draining")
    cli.file("go", "")
    assert service.ends() == 0
    assert service.output.text() == "begin 0\nend 0"


def test_a_second_ctrl_c_ends_at_once_even_when_a_handler_blocks_the_loop(cli: CommandLine) -> None:
    service = begun(cli, 1, WAITING.replace("await asyncio.sleep(0.01)", "__import__('time').sleep(60)"))
    service.send(signal.SIGINT)
    service.says("SIGINT: draining")
    deadline = time.monotonic() + PATIENCE
    while service.process.poll() is None and time.monotonic() < deadline:
        service.send(signal.SIGINT)  # again, as the first of these may come too close to the one before
        with suppress(subprocess.TimeoutExpired):
            service.process.wait(0.1)
    assert service.ends() == 1
    assert "forced shutdown; messages in flight will be redelivered" in service.errors.text()
    assert cli.depth("CTH", "q") == 1


# produce


def test_produce_publishes_one_json_value_from_the_command_line(cli: CommandLine) -> None:
    cli.declare("CTH", "q")
    value = {"text": "ü" * 1000}  # longer than a file name may be
    done = cli.run("produce", *QUEUE, json.dumps(value, ensure_ascii=False))
    assert (done.returncode, done.stdout) == (0, "")
    assert re.fullmatch(r"published 1 message to CTH in \d+\.\d s \([\d,]+/s\)\n", done.stderr)
    assert json.loads(cli.run("consume", *QUEUE, "-n", "1").stdout) == value


def test_produce_publishes_a_file_and_says_how_many_and_how_fast(cli: CommandLine) -> None:
    cli.declare("CTH", "q")
    cli.file("events.jsonl", "\n".join([*numbered(1200), "", "  ", '{"n": 1200}']))
    done = cli.run("produce", *QUEUE, "events.jsonl")
    assert done.returncode == 0
    assert re.fullmatch(r"published 1,201 messages to CTH in \d+\.\d s \([\d,]+/s\)\n", done.stderr)
    assert bodies(cli.run("consume", *QUEUE, "-n", "1201").stdout) == list(range(1201))


def test_produce_publishes_each_line_of_a_pipe_while_the_writer_is_still_open(
    any_cli: CommandLine, exchange: str
) -> None:
    any_cli.declare(exchange, "q")
    producer = any_cli.start("produce", "--exchange", exchange, "--id", "me")
    consumer = any_cli.start("consume", "--exchange", exchange, "--id", "q")
    for n in range(3):
        producer.write(f'{{"n": {n}}}')
        consumer.says(f'{{"n":{n}}}')
    assert producer.process.poll() is None
    assert producer.ends() == 0
    assert "published 3 messages" in producer.errors.text()


def test_produce_waits_for_a_queue_and_says_so_once(any_cli: CommandLine, exchange: str) -> None:
    any_cli.file("events.jsonl", "\n".join(numbered(5)))
    producer = any_cli.start("produce", "--exchange", exchange, "--id", "me", "events.jsonl")
    producer.says(f"no queue is bound to exchange '{exchange}' yet; waiting for a consumer")
    consumed = any_cli.run("consume", "--exchange", exchange, "--id", "q", "-n", "5")
    assert sorted(bodies(consumed.stdout)) == list(range(5))
    assert producer.ends() == 0
    assert producer.errors.text().count("no queue is bound") == 1


def test_produce_that_waits_at_a_misspelled_exchange_names_the_queues_that_exist(cli: CommandLine) -> None:
    cli.declare("CTH", "q")
    done = cli.run("produce", "--exchange", "CHT", "--id", "me", "--wait", "300ms", "{}")
    assert done.stderr.splitlines()[0].endswith("'CHT' yet; waiting for a consumer; queues: CTH/q")


def test_wait_bounds_how_long_produce_waits_for_a_queue(cli: CommandLine) -> None:
    done = cli.run("produce", *QUEUE, "--wait", "300ms", "{}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1].startswith("published 0 messages")
    assert done.stderr.splitlines()[2:] == ["mqasync: no queue is bound to exchange 'CTH'"]


def test_produce_stops_at_a_line_that_is_not_json_names_it_and_says_how_many_were_published(cli: CommandLine) -> None:
    cli.declare("CTH", "q")
    done = cli.run("produce", *QUEUE, stdin='{"n": 0}\n\n{"n": \n{"n": 1}\n')
    assert done.returncode == 2
    assert "published 1 message to CTH" in done.stderr
    assert done.stderr.splitlines()[1:] == ["mqasync: line 3 is not JSON: '{\"n\": ': Input data was truncated"]
    assert cli.depth("CTH", "q") == 1


def test_a_produce_that_is_stopped_before_its_end_does_not_pass_for_complete(cli: CommandLine) -> None:
    cli.declare("CTH", "q")
    producer = cli.start("produce", *QUEUE)
    producer.write('{"n": 0}')
    cli.until_depth("CTH", "q", 1)
    producer.send(signal.SIGINT)
    assert producer.process.wait(PATIENCE) == 1
    assert "published 1 message " in producer.errors.text()
    assert producer.errors.lines[-1] == "mqasync: stopped before the end of the input"


# consume


def test_consume_n_takes_exactly_n_and_leaves_the_rest(any_cli: CommandLine, exchange: str) -> None:
    any_cli.declare(exchange, "q")
    any_cli.publish(exchange, *numbered(5))
    queue = ("--exchange", exchange, "--id", "q")
    done = any_cli.run("consume", *queue, "-n", "2")
    assert (done.returncode, bodies(done.stdout), done.stderr) == (0, [0, 1], "")
    any_cli.until_depth(exchange, "q", 3)
    assert sorted(bodies(any_cli.run("consume", *queue, "-n", "3").stdout)) == [2, 3, 4]


def test_consume_no_ack_shows_everything_and_leaves_it_in_the_queue(any_cli: CommandLine, exchange: str) -> None:
    any_cli.declare(exchange, "q")
    any_cli.publish(exchange, *numbered(20), json.dumps({"n": 20, "long": "x" * 20_000}))
    queue = ("--exchange", exchange, "--id", "q")
    for _ in range(2):
        done = any_cli.run("consume", *queue, "--no-ack", "-n", "21")
        assert (done.returncode, sorted(bodies(done.stdout)), done.stderr) == (0, list(range(21)), "")
        any_cli.until_depth(exchange, "q", 21)


def test_consume_into_head_ends_quietly_and_loses_nothing(any_cli: CommandLine, exchange: str) -> None:
    any_cli.declare(exchange, "q")
    any_cli.publish(exchange, *numbered(5))
    command = f"{' '.join(MQASYNC)} consume --exchange {exchange} --id q | head -1; exit ${{PIPESTATUS[0]}}"
    done = any_cli.run("-c", command, program=["bash"])
    assert (done.returncode, bodies(done.stdout), done.stderr) == (0, [0], "")
    any_cli.until_depth(exchange, "q", 4)
    rest = any_cli.run("consume", "--exchange", exchange, "--id", "q", "-n", "4")
    assert sorted(bodies(rest.stdout)) == [1, 2, 3, 4]


@pytest.mark.parametrize("written", [True, False], ids=["in the pipe", "not yet published"])
def test_what_the_reader_has_not_taken_before_it_went_stays_in_the_queue(cli: CommandLine, written: bool) -> None:
    cli.declare("CTH", "q")
    cli.publish("CTH", *numbered(2 if written else 1))
    with cli.piped("consume", *QUEUE) as consumer:
        assert consumer.stdout and consumer.stderr
        assert consumer.stdout.readline() == b'{"n":0}\n'
        if written:
            assert select.select([consumer.stdout], [], [], PATIENCE)[0]
            consumer.stdout.close()
        else:
            cli.until_depth("CTH", "q", 0)
            consumer.stdout.close()
            cli.publish("CTH", '{"n": 1}')
        assert (consumer.wait(PATIENCE), consumer.stderr.read()) == (0, b"")
    assert bodies(cli.run("consume", *QUEUE, "-n", "1").stdout) == [1]


def test_a_blocked_stdout_does_not_cost_consume_its_connection(
    cli: CommandLine, rabbitmq_url: str, exchange: str
) -> None:
    cli.url = cli.environment["MQASYNC_BROKER"] = f"{rabbitmq_url}?heartbeat=1"
    count = 30
    cli.declare(exchange, "q")
    cli.publish(exchange, *(json.dumps({"n": n, "long": "x" * 10_000}) for n in range(count)))
    with cli.piped("consume", "--exchange", exchange, "--id", "q", "-n", str(count)) as consumer:
        assert consumer.stdout and consumer.stderr
        assert select.select([consumer.stdout], [], [], PATIENCE)[0]
        # Given a reader who sleeps for longer than RabbitMQ waits for a heartbeat
        with pytest.raises(subprocess.TimeoutExpired):
            consumer.wait(4)
        # When he reads on, then every message is there once, on the first connection
        assert bodies(consumer.stdout.read().decode()) == list(range(count))
        assert (consumer.wait(PATIENCE), consumer.stderr.read()) == (0, b"")


def test_ctrl_c_ends_consume_with_0(any_cli: CommandLine, exchange: str) -> None:
    any_cli.declare(exchange, "q")
    any_cli.publish(exchange, *numbered(1))
    consumer = any_cli.start("consume", "--exchange", exchange, "--id", "q")
    consumer.says('{"n":0}')
    consumer.send(signal.SIGINT)
    assert consumer.ends() == 0
    assert re.fullmatch(r"[\d:]+ SIGINT: draining; once more forces the shutdown", consumer.errors.text())
    assert any_cli.depth(exchange, "q") == 0


def test_consume_prints_any_body_as_one_json_line(cli: CommandLine) -> None:
    given = [b'{"a":\n [1,\n 2]}', b"plain text\nof two lines", b"\xff\xfe", b"", '"ü\u2028"'.encode(), b"NaN"]
    cli.declare("CTH", "q")
    cli.publish("CTH", *given)
    done = cli.run("consume", *QUEUE, "-n", str(len(given)))
    assert done.returncode == 0
    shown = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert shown == [{"a": [1, 2]}, "plain text\nof two lines", "\ufffd\ufffd", "", "ü\u2028", "NaN"]


# config, version


def test_config_shows_what_is_resolved_with_every_secret_masked(cli: CommandLine) -> None:
    cli.file("password", "s3/cr@t\n")
    cli.file(
        "config.yml",
        """
        brokers:
          main: ${MQASYNC_BROKER}
          rabbit: amqp://guest:${file:password}@rabbit/
          literal: amqp://guest:s3cr3t@rabbit/?heartbeat=5
        exchanges: {CTH: {broker: rabbit, requires: [enrich]}}
        consumers: {CTH/enrich: {timeout: "${TIMEOUT:10m}", queue: legacy}}
        services: {steps: {api_token: s3cr3t, copy: "${file:password}", url: "http://me:s3cr3t@host/", plain: 1}}
        dedup: redis://:${file:password}@redis/0
        """,
    )
    done = cli.run("config")
    assert (done.returncode, done.stderr) == (0, "")
    assert "s3" not in done.stdout
    assert yaml.safe_load(done.stdout) == {
        "brokers": {
            "main": cli.url,
            "rabbit": "amqp://guest:***@rabbit/",
            "literal": "amqp://guest:***@rabbit/?heartbeat=5",
        },
        "exchanges": {
            "CTH": {"broker": "rabbit", "requires": ["enrich"], "optional": False, "declare": True, "options": {}}
        },
        "consumers": {"CTH/enrich": {"timeout": "10m", "queue": "legacy"}},
        "services": {"steps": {"api_token": "***", "copy": "***", "url": "http://me:***@host/", "plain": 1}},
        "dedup": "redis://:***@redis/0",
    }
    cli.file("again.yml", done.stdout)
    assert cli.run("config", "--config", "again.yml").stdout == done.stdout, "what it prints is a config.yml"


@pytest.mark.parametrize("program", [MQASYNC, [str(Path(sys.executable).with_name("mqasync"))]], ids=["-m", "script"])
def test_both_ways_to_start_it_say_the_version_and_the_commands(cli: CommandLine, program: list[str]) -> None:
    assert cli.run("--version", program=program).stdout == f"mqasync, version {__version__}\n"
    helped = cli.run("--help", program=program).stdout
    assert {"config", "consume", "dead", "produce", "run"} <= set(re.findall(r"^  (\w+)  ", helped, re.MULTILINE))


# the original proof of concept


def test_two_consumers_of_queue1_share_the_work_and_queue2_gets_everything(any_cli: CommandLine, exchange: str) -> None:
    any_cli.declare(exchange, "queue1", "queue2")
    producer = any_cli.start("produce", "--exchange", exchange, "--id", "producer1")
    first, second = (any_cli.start("consume", "--exchange", exchange, "--id", "queue1") for _ in range(2))
    everything = any_cli.start("consume", "--exchange", exchange, "--id", "queue2")
    sent = 0
    while min(len(first.output.lines), len(second.output.lines)) < 5:
        assert sent < 500, "one of them does all the work"
        producer.write(f'{{"n": {sent}}}')
        everything.says(f'{{"n":{sent}}}')
        sent += 1
    assert producer.ends() == 0
    any_cli.until_depth(exchange, "queue1", 0)
    everyone: list[Running] = [first, second, everything]
    for consumer in everyone:
        consumer.send(signal.SIGINT)
        assert consumer.ends() == 0
    assert sorted(bodies([*first.output.lines, *second.output.lines])) == list(range(sent))
    assert bodies(everything.output.lines) == list(range(sent))
