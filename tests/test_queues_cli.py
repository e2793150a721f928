"""`mqasync peek`, `purge`, `tap` and `process` as real processes: what they print and what they leave behind."""

import json
import os
import pty
import signal
import sqlite3

import msgspec
import pytest

from mqasync import Message
from mqasync.operate.browse import from_record, to_record
from mqasync.transport import DEAD

from .commands import CommandLine

MODULE = """
from contextlib import asynccontextmanager
from mqasync import Message, Out, Reject, consumer, producer

@asynccontextmanager
async def lifespan(settings: dict):
    yield {"greeting": settings.get("greeting", "hello")}
    print("closed")

@consumer(exchange="CTH", id="q", to="out", timeout=5)
async def handle(event, message: Message, greeting):
    if event["n"] == 0:
        raise Reject("zero")
    if event["n"] < 0:
        raise ValueError("negative")
    yield {"n": event["n"], "greeting": greeting, "key": message.key}
    yield Out("more", exchange="other", key="k", headers=message.headers)

@consumer(exchange="CTH", id="batch", to="out")
async def batch(events: list[dict]):
    return len(events)

@consumer(exchange="CTH", id="nothing", retries=0)
async def nothing(body: bytes):
    raise KeyError(body)

@producer(exchange="CTH", id="feed")
async def feed():
    yield {}
"""


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.declare("CTH", "q")
    return cli


def numbered(count: int) -> list[str]:
    return [json.dumps({"n": n}) for n in range(count)]


def queues(cli: CommandLine) -> set[str]:
    with sqlite3.connect(cli.directory / "messages.db") as db:
        return {id for (id,) in db.execute("SELECT id FROM queue")}


# peek


def test_peek_shows_the_next_messages_and_leaves_them_there(cli: CommandLine) -> None:
    cli.run("produce", "--exchange", "CTH", "--id", "me", stdin="\n".join(numbered(12)))
    for _ in range(2):
        lines = cli.run("peek", "CTH", "q").stdout.splitlines()
        assert lines[0].split() == ["id", "age", "attempt", "returned", "producer", "key", "body"]
        assert [line.split(maxsplit=6)[2:] for line in lines[1:]] == [
            ["1", "0", "me", "-", body] for body in numbered(10)
        ]
    peeked = json.loads(cli.run("peek", "CTH", "q", "-n", "2", "--json").stdout)
    assert [message["body"] for message in peeked] == [{"n": 0}, {"n": 1}]
    assert cli.depth("CTH", "q") == 12
    consumed = cli.run("consume", "--exchange", "CTH", "--id", "q", "-n", "12").stdout.splitlines()
    assert [json.loads(line)["n"] for line in consumed] == list(range(12))
    assert cli.run("peek", "CTH", "q").stdout == "no message waits in CTH/q\n"
    assert cli.run("peek", "CTH", "p").returncode == 2


# purge


def test_purge_asks_and_takes_what_waits_but_not_the_dead_letters(cli: CommandLine) -> None:
    cli.declare("CTH", "q" + DEAD)
    cli.publish("CTH", *numbered(250))
    refused = cli.run("purge", "CTH", "q")
    assert refused.returncode == 2 and "confirm with --yes" in refused.stderr
    ours, terminal = pty.openpty()
    running = cli.start("purge", "CTH", "q", stdin=terminal)
    os.write(ours, b"n\n")
    assert running.process.wait(20) == 1
    assert "Purge 250 messages of CTH/q for good?" in running.output.text()
    os.close(ours)
    os.close(terminal)
    assert cli.depth("CTH", "q") == 250
    assert cli.run("purge", "CTH", "q", "--yes").stderr == "purged 250 messages of CTH/q\n"
    assert (cli.depth("CTH", "q"), cli.depth("CTH", "q" + DEAD)) == (0, 250)
    assert cli.run("purge", "CTH", "q").stderr == "no message waits in CTH/q\n"


# tap


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_tap_copies_what_comes_and_its_queue_is_gone_at_the_end(cli: CommandLine, number: signal.Signals) -> None:
    cli.publish("CTH", '{"before": 1}')
    running = cli.start("tap", "CTH")
    running.says("tapping CTH as tap-")
    cli.publish("CTH", '{"n":\n1}')
    running.says('{"n":1}')
    assert len(queues(cli)) == 2
    running.send(number)
    assert running.ends() == 0
    assert running.output.text() == '{"n":1}'
    assert queues(cli) == {"q"}
    assert cli.depth("CTH", "q") == 2


def test_a_tap_ends_after_so_many_with_all_of_each_or_when_nobody_reads_any_more(cli: CommandLine) -> None:
    running = cli.start("tap", "CTH", "--full", "-n", "2")
    running.says("tapping")
    cli.run("produce", "--exchange", "CTH", "--id", "me", stdin="\n".join(numbered(3)))
    assert running.ends() == 0
    messages = [json.loads(line) for line in running.output.text().splitlines()]
    assert [(message["body"]["n"], message["producer"], message["attempt"]) for message in messages] == [
        (0, "me", 1),
        (1, "me", 1),
    ]
    with cli.piped("tap", "CTH") as process:
        assert process.stderr and process.stdout
        process.stderr.readline()
        process.stdout.close()
        cli.publish("CTH", *numbered(2))
        assert process.wait(20) == 0
        assert b"Traceback" not in process.stderr.read()
    assert queues(cli) == {"q"}


def test_a_tap_where_no_queue_is_bound_is_refused_as_it_would_hide_that(cli: CommandLine) -> None:
    refused = cli.run("tap", "CHT")
    assert refused.returncode == 2 and refused.stderr.endswith("exchanges: CTH\n")


# process


@pytest.fixture
def handlers(cli: CommandLine) -> CommandLine:
    cli.file("module.py", MODULE)
    cli.file("config.yml", "services: {module: {greeting: hi}}")
    return cli


def test_process_prints_what_the_handler_would_publish_and_publishes_nothing(handlers: CommandLine) -> None:
    handlers.declare("out", "q")
    done = handlers.run("process", "module:handle", "--msg", '{"n": 1}', "--key", "K", "--header", "a=b=c", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    closed, _, printed = done.stdout.partition("\n")
    one, two = json.loads(printed)
    assert closed == "closed"
    assert (one["exchange"], one["body"]) == ("out", {"n": 1, "greeting": "hi", "key": "K"})
    assert (two["exchange"], two["body"], two["key"], two["headers"]) == ("other", "more", "k", {"a": "b=c"})
    assert handlers.depth("out", "q") == 0
    table = handlers.run("process", "module:handle", "--msg", '{"n": 1}').stdout.splitlines()
    assert table[1].split() == ["exchange", "id", "key", "headers", "body"]


def test_process_publishes_when_asked_and_takes_lines_as_a_batch_and_a_file_as_one(handlers: CommandLine) -> None:
    handlers.declare("out", "q")
    handlers.declare("other", "q")
    batch = handlers.run("process", "module:batch", "--msg", "-", "--publish", stdin="{}\n\n{}\n")
    assert batch.stderr == "published 1 message\n"
    handlers.file("message.json", '{"n":\n 2}\n')
    assert handlers.run("process", "module:handle", "--msg", "message.json", "--publish").returncode == 0
    peeked = json.loads(handlers.run("peek", "out", "q", "--json").stdout)
    assert [message["body"] for message in peeked] == [2, {"n": 2, "greeting": "hi", "key": None}]
    assert handlers.depth("other", "q") == 1


@pytest.mark.parametrize(
    ("handler", "msg", "said"),
    [
        ("handle", '{"n": -1}', ["ValueError: negative", "(retries=5), then dead-letter it", 'module.py", line 15']),
        ("handle", '{"n": 0}', ["Reject: zero", "would dead-letter the message immediately", 'module.py", line 13']),
        ("handle", "[]", ["the body is not a JSON dict", "would dead-letter the message immediately"]),
        ("nothing", "1", ["KeyError", "retries=0"]),
    ],
)
def test_process_shows_the_handlers_error_and_what_would_become_of_the_message(
    handlers: CommandLine, handler: str, msg: str, said: list[str]
) -> None:
    done = handlers.run("process", f"module:{handler}", "--msg", msg)
    assert done.returncode == 1
    for text in said:
        assert text in done.stderr
    assert "mqasync/" not in done.stderr and "asyncio" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("module", "--msg", "1"), "name one of them: module:handle, module:batch, module:nothing"),
        (("module:feed", "--msg", "1"), "is a producer"),
        (("module:handel", "--msg", "1"), "it has: handle, batch, nothing"),
        (("module:handle", "--msg", "{"), "--msg is neither a file nor JSON"),
        (("module:handle", "--msg", "1", "--header", "x"), "is not of the form NAME=TEXT"),
    ],
)
def test_a_mistake_is_one_sentence(handlers: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    done = handlers.run("process", *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


# records


@pytest.mark.parametrize("body", [b"{}", b"", b"null", b"\xff", b'"\xff"', b"NaN", b"1e400", b"[" * 5000])
def test_a_message_comes_back_from_its_record_whatever_its_body_is(body: bytes) -> None:
    message = Message(body=body, exchange="CTH", id="\ud7ff\n", producer="me", headers={"a": "b"}, key="k", attempt=3)
    line = json.dumps(json.loads(msgspec.json.encode(to_record(message)))).encode()
    assert from_record(line) == message
