"""The log: lines for people on a terminal, JSON lines elsewhere, each saying which message it is about."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mqasync import consumer
from mqasync.handlers.current_message import HANDLING
from mqasync.testing import StartService

from .commands import CommandLine
from .test_security import EVIL

SERVICE = """
import asyncio
import logging
from mqasync import Message, Out, Reject, consumer, producer

log = logging.getLogger("service")

@producer(exchange="lines", id="file")
async def read():
    for id in ("one", "two"):
        yield Out({"text": "fine"}, id=id)

@consumer(exchange="lines", id="find", retries=1, backoff=0.01)
async def find(line: dict, message: Message):
    asyncio.create_task(helper())
    await asyncio.sleep(0)
    if message.attempt == 1:
        raise ValueError("not yet")

async def helper():
    log.info("helping")

@consumer(exchange="lines", id="batch", batch_size=2, batch_wait="10s")
async def batch(lines: list[dict]):
    try:
        raise KeyError("x")
    except KeyError:
        log.exception("a batch of %s", len(lines))
"""


LEVELS = """
import logging
from mqasync import producer

@producer(exchange="levels", id="one")
async def speak():
    logging.getLogger("quiet").debug("one")
    logging.getLogger("quieter").debug("two")
    logging.getLogger("loud").info("three")
    logging.getLogger("loud").warning("four")
"""


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    del cli.environment["MQASYNC_LOG"]
    cli.file("service.py", SERVICE)
    return cli


def entries(stderr: str) -> list[dict[str, Any]]:
    """Every line is a JSON object."""
    assert stderr.isascii()
    return [json.loads(line) for line in stderr.splitlines()]


def test_into_a_pipe_the_log_is_json_lines_that_say_which_message_they_are_about(cli: CommandLine) -> None:
    done = cli.run("run", "service", "--until-idle")
    assert done.returncode == 0
    lines = entries(done.stderr)
    # Then the command's own lines have a time, a level and a logger
    first = lines[0]
    assert first["message"].startswith("mqasync ")
    assert {**first, "time": "", "message": ""} == {"time": "", "level": "INFO", "logger": "mqasync", "message": ""}
    when = datetime.fromisoformat(first["time"])
    assert when.utcoffset() == timedelta(0) and abs(when - datetime.now(UTC)) < timedelta(minutes=1)
    # And what a handler logs, also in a task of its own, is about its message
    about = {"exchange": "lines", "id": "find", "message_id": "one", "level": "INFO", "logger": "service"}
    helping = [
        {**line, "time": ""} for line in lines if line.get("message_id") == "one" and line["logger"] == "service"
    ]
    assert helping == [{"time": "", "message": "helping", "attempt": attempt, **about} for attempt in (1, 2)]
    # And so is what became of it
    (failed,) = [line for line in lines if line["message"].startswith("lines/find: message one")]
    assert (failed["logger"], failed["message_id"], failed["attempt"]) == ("mqasync", "one", 1)
    # And a batch says how many it has
    (batch,) = [line for line in lines if line.get("id") == "batch"]
    assert (batch["level"], batch["messages"], "message_id" in batch) == ("ERROR", 2, False)
    assert "Traceback" in batch["exception"] and "KeyError: 'x'" in batch["exception"]


def test_the_level_is_that_of_all_loggers_or_of_one(cli: CommandLine) -> None:
    cli.file("levels.py", LEVELS)
    done = cli.run("--log-level", "warning", "--log-level", "quiet=debug", "run", "levels", "--until-idle")
    assert [(line["logger"], line["message"]) for line in entries(done.stderr)] == [("quiet", "one"), ("loud", "four")]
    # Given the environment, then it is the same
    cli.environment["MQASYNC_LOG_LEVEL"] = "warning quiet=debug"
    assert len(entries(cli.run("run", "levels", "--until-idle").stderr)) == 2


@pytest.mark.parametrize("level", ["loud", "=debug", "aio_pika=", "aio_pika=loud", "DEBUGGING", ""])
def test_a_level_that_is_none_is_one_sentence(cli: CommandLine, level: str) -> None:
    done = cli.run("--log-format", "human", "--log-level", level, "check")
    takes = "it takes debug, info, warning, error, critical, or one for a logger: aio_pika=debug"
    assert (done.returncode, done.stderr) == (2, f"mqasync: --log-level {level!r} is not a level; {takes}\n")


async def test_the_retry_before_does_not_hide_that_a_message_is_dead_lettered(
    mqasync_service: StartService, caplog: pytest.LogCaptureFixture
) -> None:
    @consumer(exchange="E", id="q", retries=1)
    async def handle(event: dict[str, Any]) -> None:
        raise KeyError("bad")

    service = await mqasync_service(handle)
    await service.publish("E", {})
    await service.quiet()
    said = [record.getMessage() for record in caplog.records if "KeyError" in record.getMessage()]
    assert ["attempt 1" in said[0], "next attempt in" in said[0]] == [True, True]
    assert ["attempt 2" in said[1], "moved to the dead-letter queue" in said[1]] == [True, True]


async def test_a_task_that_a_handler_leaves_behind_is_about_nothing_any_more(mqasync_service: StartService) -> None:
    seen: list[list[str]] = []
    over = asyncio.Event()

    async def look() -> None:
        for _ in range(2):
            handling = HANDLING.get()
            assert handling
            seen.append([message.id for message in handling.messages])
            await over.wait()

    @consumer(exchange="E", id="q")
    async def handle(event: dict[str, Any]) -> None:
        tasks.append(asyncio.create_task(look()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    service = await mqasync_service(handle)
    id = await service.publish("E", {})
    await service.quiet()
    over.set()
    await asyncio.gather(*tasks)
    assert seen == [[id], []]


def test_on_a_terminal_the_log_is_lines_for_people(cli: CommandLine) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mqasync", "run", "service", "--until-idle"],
        cwd=cli.directory,
        env=cli.environment,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        text = b""
        try:
            while some := os.read(ours, 4096):
                text += some
        except OSError:  # how Linux says that nobody writes there any more
            pass
        finally:
            os.close(ours)
        assert process.wait(30) == 0
    said = text.decode().replace("\r\n", "\n")
    assert re.search(r"^\d\d:\d\d:\d\d \[lines/find one 2\] helping$", said, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d lines/find: message one, attempt 1: ValueError: not yet", said, re.MULTILINE)


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_format_can_be_chosen(cli: CommandLine, how: str) -> None:
    cli.environment["MQASYNC_LOG"] = "human" if how == "variable" else "json"
    options = ["--log-format", "human"] if how == "option" else []
    done = cli.run(*options, "run", "service", "--until-idle")
    assert re.match(r"\d\d:\d\d:\d\d mqasync ", done.stderr)


def test_commands_other_than_run_talk_to_people_wherever_they_do(cli: CommandLine) -> None:
    done = cli.run("produce", "--exchange", "nowhere", "--id", "me", "--wait", "1s", "{}")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "mqasync: no queue is bound to exchange 'nowhere'")
    assert re.match(r"\d\d:\d\d:\d\d no queue is bound to exchange 'nowhere' yet", done.stderr)


def test_a_format_that_is_none_is_refused(cli: CommandLine) -> None:
    done = cli.run("--log-format", "xml", "run", "service")
    assert done.returncode == 2
    assert "'xml' is not one of 'auto', 'human', 'json'" in done.stderr


@pytest.mark.parametrize("ends", ["by a mistake", "by a service's error"])
def test_what_ends_a_command_is_a_line_like_the_others(cli: CommandLine, ends: str) -> None:
    cli.file("broken.py", f"raise ValueError({EVIL!r})")
    done = cli.run("run", "nowhere" if ends == "by a mistake" else "broken")
    (line,) = entries(done.stderr)
    assert (line["level"], line["logger"]) == ("ERROR", "mqasync")
    if ends == "by a mistake":
        assert (done.returncode, "exception" in line) == (2, False)
        assert line["message"].startswith("there is no module 'nowhere'")
    else:
        assert done.returncode == 1
        assert "broken.py" in line["exception"] and "forged" in line["message"]


def test_nobody_forges_a_json_line(cli: CommandLine) -> None:
    cli.file("evil.py", f"import logging\nlogging.getLogger('x').warning('%s', {EVIL!r})\nraise ValueError({EVIL!r})")
    done = cli.run("run", "evil")
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.replace("\n", "").isprintable()
    warned, ended = entries(done.stderr)
    assert warned["message"] == EVIL and EVIL in ended["exception"]


def test_a_signal_is_told_as_a_json_line(cli: CommandLine) -> None:
    service = cli.start("run", "service")
    service.says("helping")
    service.send(signal.SIGTERM)
    assert service.ends() == 0
    told = [line["message"] for line in entries(service.errors.text())]
    assert "SIGTERM: draining; once more forces the shutdown" in told
