"""`mqasync status`: the queues and processes, as a person sees them and as a machine does."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from .commands import CommandLine
from .test_request import TEMPORARY

SERVICE = """
import os
from mqasync import Reject, consumer

@consumer(exchange=os.environ["EXCHANGE"], id="step")
async def step(body):
    if body["n"] == 2:
        raise Reject("two is no good")
    print("handled", body["n"], flush=True)
"""


def queue(status: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = [row for row in status["queues"] if row["queue"] == name]
    return row  # type: ignore[no-any-return]


@pytest.mark.parametrize("cli", TEMPORARY, indirect=True)
def test_status_tells_of_queues_and_of_the_processes_that_work_on_them(cli: CommandLine, exchange: str) -> None:
    cli.environment["EXCHANGE"] = exchange
    cli.file("mine.py", SERVICE)
    # Given a queue that is known and was never declared
    before = cli.run("status", "mine", "--json")
    assert before.returncode == 0, before.stderr
    assert json.loads(before.stdout)["processes"] == []
    assert queue(json.loads(before.stdout), f"{exchange}/step")["waiting"] is None
    # When it is consumed, and one message was buried
    service = cli.start("run", "mine")
    service.says("consumer")
    cli.run("produce", "--exchange", exchange, "--id", "me", stdin='{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    service.says("two is no good")
    service.says("handled 3")
    # Then status says so, going on until it is stopped
    watch = cli.start("status", "mine", "--watch", "--json")
    watch.says('"process"')
    watch.send(signal.SIGINT)
    assert watch.ends() == 0, watch.errors.text()
    status = json.loads([line for line in watch.output.lines if '"process"' in line][-1])
    row = queue(status, f"{exchange}/step")
    assert (row["waiting"] + row["delayed"], row["dead"], row["consumers"], row["buried"]) == (0, 1, 1, 1)
    assert "two is no good" in row["last error"]
    (process,) = status["processes"]
    assert process["process"].endswith(f":{service.process.pid}")
    assert (process["services"], process["handled"], process["brokers"]) == ("mine", 2, "main: connected")
    # And a person gets tables
    table = cli.run("status", "mine")
    assert table.stdout.splitlines()[0].split()[:4] == ["queue", "waiting", "delayed", "dead"]
    assert f"{exchange}/step" in table.stdout and "mine" in table.stdout


def test_a_broker_that_is_not_there_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    command_line = CommandLine(tmp_path, "amqp://guest:secret@127.0.0.1:1/")
    done = command_line.run("status", "--wait", "0.5s")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no answer from amqp://guest:***@127.0.0.1:1/ within 0.5 s" in done.stderr
