"""`mqasync status` as a person sees it; what it tells of queues and processes is in test_every_broker.py."""

import json
import signal
from pathlib import Path

from .commands import CommandLine

SERVICE = """
from mqasync import consumer

@consumer(exchange="in", id="step")
async def step(body): ...
"""


def test_status_is_told_of_a_queue_that_is_not_there_again_and_again_and_in_tables(cli: CommandLine) -> None:
    cli.file("mine.py", SERVICE)
    # Given a queue that is known and was never declared
    before = json.loads(cli.run("status", "mine", "--json").stdout)
    assert [(row["queue"], row["waiting"]) for row in before["queues"]] == [("in/step", None)]
    assert before["processes"] == []
    # When it is consumed, then status says so, going on until it is stopped
    cli.start("run", "mine").says("consumer")
    table, watch = cli.start("status", "mine"), cli.start("status", "mine", "--watch", "--json")
    watch.says('"process"')
    watch.send(signal.SIGINT)
    assert watch.ends() == 0, watch.errors.text()
    # And a person gets tables
    assert table.ends() == 0
    lines = table.output.text().splitlines()
    assert lines[0].split()[:4] == ["queue", "waiting", "delayed", "dead"]
    assert lines[1].split()[:4] == ["in/step", "0", "0", "0"] and " mine " in lines[-1]


def test_where_there_is_no_queue_status_says_on_which_broker(cli: CommandLine) -> None:
    done = cli.run("status", "--broker", "sqlite:other.db")
    assert done.stdout.splitlines() == ["no queues on sqlite:other.db", "", "no process reports that it is running"]


def test_a_broker_that_is_not_there_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    command_line = CommandLine(tmp_path, "amqp://guest:secret@127.0.0.1:1/")
    done = command_line.run("status", "--wait", "0.5s")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no answer from amqp://guest:***@127.0.0.1:1/ within 0.5 s" in done.stderr
