"""What somebody who looks after a service does, on every broker; what each command can do else is in a file of its own.

Not in memory, which no other process sees.
"""

import json
import signal

import pytest

from .commands import CommandLine

SERVICE = """
import os
from mqasync import Reject, consumer

@consumer(exchange=os.environ["EXCHANGE"], id="step")
async def step(body):
    if body["n"] > 1:
        raise Reject("more than one")
    print("handled", body["n"], flush=True)
"""


@pytest.mark.parametrize(
    "cli", ["sqlite", "rabbitmq", "redis", "kafka", "sqs", "activemq", "nats", "postgres"], indirect=True
)
def test_a_service_is_checked_watched_and_its_dead_letters_are_replayed(cli: CommandLine, exchange: str) -> None:
    def told(*arguments: str) -> str:
        done = cli.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout or done.stderr

    def found(queue: str) -> list[str]:
        findings = json.loads(told("check", "mine", "--json"))
        assert "error" not in [finding["result"] for finding in findings]
        return [finding["detail"] for finding in findings if finding["about"] == f"{exchange}/{queue}"]

    cli.environment["EXCHANGE"] = exchange
    cli.file("mine.py", SERVICE)
    # Given queues that are made by the first run, and not by looking for them
    assert found("step") == ["will be created by the first run"]
    service = cli.start("run", "mine")
    service.says("consumer")
    cli.declare(exchange, "old")
    # When messages come, of which a tap gets copies
    tap = cli.start("tap", exchange, "-n", "3")
    tap.says("tapping")
    cli.publish(exchange, *(f'{{"n":{n}}}' for n in (1, 2, 3)))
    assert tap.ends() == 0
    assert sorted(tap.output.text().split("\n")) == ['{"n":1}', '{"n":2}', '{"n":3}']
    service.says("handled 1")
    cli.until_depth(exchange, "step.dead", 2)
    # Then the state says what became of them
    status = json.loads(told("status", "mine", "--json"))
    (row,) = status["queues"]
    assert (row["waiting"] + row["delayed"], row["dead"], row["dead_lettered"]) == (0, 2, 2)
    assert row["consumers"] in (1, None) and "more than one" in row["last error"]
    (process,) = status["processes"]
    assert process["process"].endswith(f":{service.process.pid}")
    assert (process["services"], process["handled"], process["brokers"]) == ("mine", 1, "main: connected")
    service.send(signal.SIGINT)
    assert service.ends() == 0
    # And dead letters can be seen, replayed and dropped
    listed = json.loads(told("dead", "list", exchange, "step", "--json"))
    letters = {letter["body"]["n"]: letter["id"] for letter in listed}
    assert letters.keys() == {2, 3}
    said = told("dead", "replay", exchange, "step", "--text", '"n":2')
    assert said.endswith(f"replayed 1 dead letter of {exchange}/step\n")  # after a broker's warning
    (message,) = json.loads(told("peek", exchange, "step", "--json"))
    assert (message["id"], message["body"], message["headers"]) == (letters[2], {"n": 2}, {})
    assert sorted(found("step")) == ["dead letters: 1", "exists; messages: 1"]
    assert found("old") in (["nothing here consumes it; messages: 3"], [])  # nothing where the broker does not tell
    assert told("dead", "drop", exchange, "step", "--yes").endswith(f"dropped 1 dead letter of {exchange}/step\n")
    assert told("dead", "list", exchange, "step") == "no dead letters\n"
    # And what waits can be thrown away
    assert told("purge", exchange, "step", "--yes").endswith(f"purged 1 message of {exchange}/step\n")
    cli.until_depth(exchange, "step", 0)
