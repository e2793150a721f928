"""`mqasync dead` as real processes: dead letters listed, shown, replayed, edited, moved and dropped, and never lost."""

import asyncio
import base64
import json
import os
import pty
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqasync import Message, Reject
from mqasync.brokers.broker import Broker
from mqasync.brokers.connection import Connection
from mqasync.config.settings import Settings
from mqasync.core.dead_letter import dead_letter
from mqasync.operate import browse as reading_module
from mqasync.operate.browse import Reading, all_of
from mqasync.transport import DEAD

from .commands import CommandLine

HANDLER = """
from mqasync import Message, consumer

@consumer(exchange="CTH", id="q")
async def handle(body: bytes, message: Message):
    print(message.id, message.attempt, sorted(message.headers), body.decode())
"""
# some milliseconds for each message that is put
SLOW = """
CREATE TRIGGER slow AFTER INSERT ON message BEGIN
    SELECT count(*) FROM message a, message b, queue c WHERE a.n + b.n + c.queue > 0;
END
"""
REPLAYED = "SELECT count(*) FROM message JOIN queue USING (queue) WHERE id = 'q'"


class Graveyard(CommandLine):
    """Commands on a broker with queues q and other, and dead letters in the first."""

    def dead_letter(self, *messages: Message, error: Exception | None = None) -> None:
        """As a channel does."""
        letters = [dead_letter(message, "q", error or ValueError("bad number")) for message in messages]

        async def send(transport: Connection) -> None:
            for exchange in {message.exchange for message in messages}:
                await transport.declare(exchange, "q" + DEAD, bound=False)
                await transport.send(exchange, "q" + DEAD, letters)

        self._on_broker(send)

    def dead(self, exchange: str = "CTH") -> int:
        """How many dead letters there are."""
        return self.depth(exchange, "q" + DEAD)

    def said(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """What a command prints to stderr; its exit code has to be `code`."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == code, done.stderr
        return done.stderr

    def ids(self, *arguments: str) -> list[str]:
        """The ids that `dead list` tells, of the dead letters that the arguments choose."""
        done = self.run("dead", "list", "CTH", "q", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return [letter["id"] for letter in json.loads(done.stdout)]


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Graveyard]:
    command_line = Graveyard(tmp_path, f"sqlite:{tmp_path}/messages.db?lease=1")
    command_line.declare("CTH", "q", "other")
    yield command_line
    command_line.stop()


def numbered(*numbers: int, exchange: str = "CTH") -> list[Message]:
    return [Message(body=b'{"n": %d}' % n, exchange=exchange, id=f"id-{n}", producer="feed") for n in numbers]


# which dead letters


def test_where_there_are_none_it_says_so_and_a_queue_that_is_not_there_is_a_mistake(cli: Graveyard) -> None:
    listed = cli.run("dead", "list", "CTH", "q")
    assert (listed.returncode, listed.stdout, listed.stderr) == (0, "no dead letters\n", "")
    assert cli.said("dead", "replay", "CTH", "q") == "no dead letters\n"
    for command in ("list", "show", "replay", "export", "drop", "import"):
        said = cli.said("dead", command, "CTH", "qq", code=2)
        assert said.startswith("mqasync: there is no queue CTH/qq on")
        assert said.endswith("; queues: CTH/other, CTH/q\n")
    assert "cannot be an id" in cli.said("dead", "list", "CTH", "q.dead", code=2)


def test_list_shows_a_line_each_oldest_first_and_they_stay_where_they_are(cli: Graveyard) -> None:
    cli.dead_letter(*numbered(1, 2))
    cli.dead_letter(*numbered(3), error=Reject("it is\nthree"))
    for _ in range(2):
        listed = cli.run("dead", "list", "CTH", "q")
        table = [line.split(maxsplit=4) for line in listed.stdout.splitlines()]
        assert listed.stdout.split("\n")[0].split() == ["id", "age", "attempts", "reason", "error", "body"]
        assert [row[0] for row in table[1:]] == ["id-1", "id-2", "id-3"]
        assert [row[2:4] for row in table[1:]] == [["1", "ValueError"], ["1", "ValueError"], ["1", "rejected"]]
        assert table[3][4].split("  ")[0] == "it is three" and table[3][4].strip().endswith('{"n": 3}')
        assert listed.stderr == ""


def test_what_the_broker_itself_has_dead_lettered_has_a_reason_and_can_be_replayed(cli: Graveyard) -> None:
    async def dead_letter(transport: Connection) -> None:  # as RabbitMQ does behind its x-delivery-limit: as it is
        await transport.declare("CTH", "q" + DEAD, bound=False)
        await transport.send("CTH", "q" + DEAD, numbered(1))

    cli._on_broker(dead_letter)
    shown = cli.run("dead", "show", "CTH", "q").stdout
    assert re.search("dead-reason +returned", shown) and "the broker itself dead-lettered it" in shown
    assert cli.ids("--reason", "returned") == ["id-1"]
    assert cli.said("dead", "replay", "CTH", "q") == "replayed 1 dead letter of CTH/q\n"


def test_the_options_choose_by_reason_age_text_and_id_and_limit_how_many(cli: Graveyard) -> None:
    cli.dead_letter(*numbered(1, 2))
    cli.dead_letter(*numbered(3), error=Reject("it is three"))
    cli.dead_letter(Message(body=b"\xff", exchange="CTH", id="id-30"), error=KeyError("n"))
    assert cli.ids("--reason", "rejected") == ["id-3"]
    assert cli.ids("--reason", "valueerror") == ["id-1", "id-2"]
    assert cli.ids("--reason", "builtins.KeyError") == ["id-30"]
    assert cli.ids("--text", "THREE") == ["id-3"] and cli.ids("--text", '"n": 2') == ["id-2"]
    assert cli.ids("--older", "1h") == [] and len(cli.ids("--newer", "1h")) == 4
    assert cli.ids("--message", "id-1") == ["id-1"] and cli.ids("--message", "id-3") == ["id-3"]
    assert cli.ids("--limit", "2") == ["id-1", "id-2"]
    assert cli.said("dead", "list", "CTH", "q", "-n", "2") == "2 of 4 dead letters; see -n\n"
    assert cli.said("dead", "replay", "CTH", "q", "--text", "nowhere") == "no dead letter matches\n"
    assert "4 ids begin with 'id': id-1, id-2, id-3, id-30" in cli.said(
        "dead", "show", "CTH", "q", "--message", "id", code=2
    )
    assert "no matching dead letter has" in cli.said("dead", "drop", "CTH", "q", "--message", "x", "--yes", code=2)
    assert cli.dead() == 4


def test_show_tells_everything_of_one_and_no_letter_can_forge_what_it_prints(cli: Graveyard) -> None:
    message = Message(body=b'{"a": [1, "\\u001b"]}', exchange="CTH", id="a\x1b[2J", key="k", headers={"own": "yes"})
    try:
        raise ValueError("one\x1btwo")
    except ValueError as error:
        cli.dead_letter(message, error=error)
    shown = cli.run("dead", "show", "CTH", "q").stdout
    assert "\x1b" not in shown and "a\\x1b[2J" in shown
    for text in ("header own", "yes", "ValueError", "test_dead.py", "raise ValueError", '    "a": [', "by - to CTH"):
        assert text in shown
    assert json.loads(cli.run("dead", "show", "CTH", "q", "--json").stdout)[0]["body"] == {"a": [1, "\x1b"]}
    cli.dead_letter(*numbered(3), error=Reject("what it says is all"))
    assert "traceback" not in cli.run("dead", "show", "CTH", "q", "--message", "id-3").stdout


def test_show_has_no_time_in_seconds_since_1970(cli: Graveyard) -> None:
    cli.dead_letter(*numbered(1))
    shown = cli.run("dead", "show", "CTH", "q").stdout
    assert "dead_lettered" in shown and not re.search(r"\d{10}\.\d", shown)


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("show", "-n", "500")])
def test_what_nobody_reads_to_its_end_ends_without_a_word(cli: Graveyard, arguments: tuple[str, ...]) -> None:
    cli.dead_letter(*(Message(body=b'"%s"' % (b"x" * 2000), exchange="CTH") for _ in range(100)))
    command, *options = arguments
    with cli.piped("dead", command, "CTH", "q", *options) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.wait(20) == 1
        assert process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, None])
def test_what_somebody_else_holds_is_said_and_put_back_when_that_ends(
    cli: Graveyard, number: signal.Signals | None
) -> None:
    cli.url = cli.environment["MQASYNC_BROKER"] = cli.url.replace("lease=1", "lease=60")
    cli.dead_letter(*numbered(1, 2))
    (reader, writer) = os.pipe()
    holding = cli.start("dead", "export", "CTH", "q", stdout=writer)  # nobody reads
    os.close(writer)
    deadline = time.monotonic() + 20
    while held(cli) < 2:
        assert time.monotonic() < deadline
    done = cli.run("dead", "list", "CTH", "q")
    assert done.returncode == 0
    assert "looked at 0 of 2 dead letters: the others are in flight to another process" in done.stderr
    if number:
        holding.send(number)
        holding.says("stopped before the end; nothing is lost")
    os.close(reader)
    assert holding.ends() == (1 if number else 0)
    assert cli.ids() == ["id-1", "id-2"]


async def test_a_reading_keeps_what_it_holds_beyond_its_lease_and_can_be_cancelled_while_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(brokers={"main": f"sqlite:{tmp_path}/messages.db?lease=0.5"})
    one, other = Broker("main", settings), Broker("main", settings)
    monkeypatch.setattr(reading_module, "PATIENCE_SECONDS", 2.0)
    await one.call(lambda transport: transport.declare("CTH", "q"))
    await one.call(lambda transport: transport.send("CTH", "q", numbered(1, 2)))
    async with Reading(one, "CTH", "q") as reading:
        assert len(await all_of(reading.portions())) == 2
        async with Reading(other, "CTH", "q") as second:
            assert await all_of(second.portions()) == []
            monkeypatch.setattr(reading_module, "PATIENCE_SECONDS", 60.0)
            waiting = asyncio.create_task(all_of(second.portions()))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    async with Reading(other, "CTH", "q") as reading:
        assert len(await all_of(reading.portions())) == 2
    await one.close()
    await other.close()


def held(cli: Graveyard) -> int:
    with sqlite3.connect(cli.directory / "messages.db") as db:
        return int(db.execute("SELECT count(*) FROM message WHERE taken > released").fetchone()[0])


# replay and edit


def test_replay_goes_to_that_id_alone_as_a_first_attempt_without_the_headers_of_a_dead_letter(cli: Graveyard) -> None:
    cli.file("handler.py", HANDLER)
    letter = Message(body=b"{}", exchange="CTH", id="one", attempt=6, headers={"own": "1"}, producer="feed", key="k")
    cli.dead_letter(letter, *numbered(2))
    assert cli.said("dead", "replay", "CTH", "q", "--message", "on") == "replayed 1 dead letter of CTH/q\n"
    assert (cli.depth("CTH", "other"), cli.depth("CTH", "q"), cli.dead()) == (0, 1, 1)
    handled = cli.run("run", "handler", "--until-idle").stdout
    assert handled == "one 1 ['own'] {}\n"


def test_replay_of_what_fails_again_meanwhile_ends(cli: Graveyard) -> None:
    """As many as there were at the beginning, not those that come back."""
    cli.file(
        "handler.py", HANDLER.replace("print", "raise ValueError\n    print").replace('id="q"', 'id="q", retries=0')
    )
    running = cli.start("run", "handler")
    running.says("on main")
    cli.dead_letter(*numbered(*range(300)))
    said = cli.said("dead", "replay", "CTH", "q")
    assert int(said.split()[1]) == 300
    cli.until_depth("CTH", "q" + DEAD, 300)


def test_replay_killed_half_way_and_run_again_loses_nothing(cli: Graveyard) -> None:
    messages = numbered(*range(200))
    cli.dead_letter(*messages)
    with sqlite3.connect(cli.directory / "messages.db", timeout=20) as db:
        db.execute(SLOW)
        db.commit()
        running = cli.start("dead", "replay", "CTH", "q")
        while not db.execute(REPLAYED).fetchone()[0]:
            time.sleep(0.01)
    running.stop()  # with kill -9, while it sends the second portion
    db.execute("DROP TRIGGER slow")
    db.close()
    assert running.process.returncode == -9
    assert cli.depth("CTH", "q") == 100
    replayed = int(cli.said("dead", "replay", "CTH", "q").split()[1])
    handled = json.loads(cli.run("peek", "CTH", "q", "-n", "1000", "--json").stdout)
    assert {message["id"] for message in handled} == {message.id for message in messages}
    assert len(handled) == 100 + replayed and replayed in (100, 200)  # a portion is repeated at most, with its ids
    assert all(message["attempt"] == 1 and not message["headers"] for message in handled)


def test_edit_replays_the_body_that_was_saved_and_keeps_the_letter_otherwise(cli: Graveyard) -> None:
    cli.dead_letter(*numbered(1, 2))
    for editor, said, code in (("true", "unchanged", 0), ("touch", "unchanged", 0), ("false", "Editing failed", 1)):
        cli.environment["EDITOR"] = editor
        assert said in cli.said("dead", "edit", "CTH", "q", "--message", "id-1", code=code)
    cli.environment["EDITOR"] = "sed -i s/1/x1/"
    assert "not JSON" in cli.said("dead", "edit", "CTH", "q", "--message", "id-1", code=1)
    assert cli.dead() == 2
    cli.environment["EDITOR"] = "sed -i s/1/17/"
    said = cli.said("dead", "edit", "CTH", "q", "--message", "id-1")
    assert said == "replayed id-1 to CTH/q with its new body\n"
    (message,) = json.loads(cli.run("peek", "CTH", "q", "--json").stdout)
    assert (message["id"], message["body"], message["headers"]) == ("id-1", {"n": 17}, {})
    assert cli.ids() == ["id-2"]


def test_an_edited_body_is_not_lost_when_somebody_else_took_the_letter_meanwhile(cli: Graveyard) -> None:
    cli.dead_letter(*numbered(1))
    script = cli.file("editor.sh", f"#!/bin/sh\nsed -i s/1/17/ $1\n{sys.executable} -m mqasync dead drop CTH q --yes\n")
    script.chmod(0o755)
    cli.environment["EDITOR"] = str(script)
    done = cli.run("dead", "edit", "CTH", "q", "--message", "id-1")
    assert (done.returncode, done.stdout) == (1, '{"n":17}\n')
    assert "is gone or in flight elsewhere" in done.stderr


# export, import and drop


def test_what_is_exported_comes_back_the_same_by_import(cli: Graveyard) -> None:
    messages = [
        *numbered(1),
        Message(body=b"\xff\n", exchange="CTH", id="raw"),
        Message(body=b"", exchange="CTH", id=""),
    ]
    cli.dead_letter(*messages)
    exported = cli.run("dead", "export", "CTH", "q").stdout
    lines = [json.loads(line) for line in exported.splitlines()]
    assert lines[0]["body"] == {"n": 1} and lines[0]["producer"] == "feed" and lines[0]["headers"]["dead-reason"]
    assert base64.b64decode(lines[1]["base64"]) == b"\xff\n"
    assert cli.dead() == 3
    assert (
        cli.said("dead", "export", "CTH", "q", "-o", "file", "--drop")
        == "exported and dropped 3 dead letters of CTH/q\n"
    )
    assert cli.dead() == 0 and (cli.directory / "file").read_text() == exported
    assert "File exists" in cli.said("dead", "export", "CTH", "q", "-o", "file", code=2)
    assert cli.said("dead", "import", "CTH", "q", "file") == "imported 3 messages to the dead-letter queue of CTH/q\n"
    assert cli.run("dead", "export", "CTH", "q").stdout == exported
    assert cli.said("dead", "import", "CTH", "q", "-", "--replay", stdin=exported) == "imported 3 messages to CTH/q\n"
    replayed = json.loads(cli.run("peek", "CTH", "q", "--json").stdout)
    assert [(message["id"], message["headers"]) for message in replayed] == [("id-1", {}), ("raw", {}), ("", {})]


@pytest.mark.parametrize("line", ['{"id": "x"}', '{"id": "x", "body": 1, "more": 1}', "{", "[1]"])
def test_a_line_that_export_has_not_written_is_named(cli: Graveyard, line: str) -> None:
    said = cli.said("dead", "import", "CTH", "q", stdin=f'{{"id": "1", "body": 1}}\n{line}\n', code=2)
    assert "mqasync: line 2: this is not a line of `mqasync dead export`" in said


def test_export_ends_quietly_when_nobody_reads_any_more_and_drop_needs_a_file(cli: Graveyard) -> None:
    cli.dead_letter(*numbered(*range(150)))
    with cli.piped("dead", "export", "CTH", "q") as process:
        assert process.stdout and process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr and b"Traceback" not in process.stderr.read()
    assert cli.dead() == 150
    assert "--drop needs --output" in cli.said("dead", "export", "CTH", "q", "--drop", code=2)


def test_drop_asks_at_a_terminal_and_refuses_where_there_is_none(cli: Graveyard) -> None:
    cli.dead_letter(*numbered(1, 2, 3))
    assert "confirm with --yes" in cli.said("dead", "drop", "CTH", "q", code=2)
    assert cli.dead() == 3
    for answer, left in ((b"n\n", 3), (b"y\n", 1)):
        ours, terminal = pty.openpty()
        running = cli.start("dead", "drop", "CTH", "q", "--limit", "2", stdin=terminal)
        os.write(ours, answer)
        running.process.wait(20)
        assert "Drop 2 dead letters of CTH/q for good?" in running.output.text()
        os.close(ours)
        os.close(terminal)
        assert cli.dead() == left
    assert cli.said("dead", "drop", "CTH", "q", "--yes") == "dropped 1 dead letter of CTH/q\n"
    assert cli.dead() == 0
