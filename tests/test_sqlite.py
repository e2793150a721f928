"""The sqlite transport keeps the contract, and says what is wrong with its file."""

import random
import re
import sqlite3
from pathlib import Path

import pytest

from mqasync import BrokerLost, Message
from mqasync.brokers.connection import load
from mqasync.transport import Features

from .commands import CommandLine
from .conformance import Conformance

SERVICE = """
from mqasync import consumer, producer

@consumer(exchange="in", id="q")
async def q(body): ...

@consumer(exchange="in", id="other")
async def other(body): ...
"""
FEED = """
@producer(exchange="in", id="feed", every="10ms")
async def feed():
    return {"n": 1}
"""
PAGE_BYTES = 4096
WAL_BYTES = 1024 * 1024


class TestSQLite(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:{tmp_path}/test.db?lease=2"


async def test_the_wal_gets_smaller_again(tmp_path: Path) -> None:
    transport, wal = load(f"sqlite:{tmp_path}/test.db"), tmp_path / "test.db-wal"
    await transport.open()
    await transport.declare("in", "q")
    subscription = await transport.subscribe("in", "q", 100)
    for sizes in ([8 * WAL_BYTES], [1000] * 250):
        await transport.publish("in", [Message(body=b"x" * size, exchange="in") for size in sizes])
        for _ in sizes:
            await subscription.ack(await subscription.receive(1, 5.0))
        assert wal.stat().st_size <= 1.1 * WAL_BYTES
    await transport.close()


async def test_a_file_that_somebody_deletes_is_lost_and_made_again(tmp_path: Path) -> None:
    """SQLite would go on writing where nobody finds it."""
    path = tmp_path / "test.db"
    for _ in range(2):
        transport = load(f"sqlite:{path}")
        await transport.open()
        await transport.declare("in", "q")
        await transport.publish("in", [Message(body=b"1", exchange="in")])
        path.unlink()
        with pytest.raises(BrokerLost):
            await transport.publish("in", [Message(body=b"2", exchange="in")])
        await transport.close()


def fill(cli: CommandLine, lines: int, size: int) -> None:
    cli.file("mine.py", SERVICE)
    cli.declare("in", "q", "other")
    cli.file("in.jsonl", "".join(f'{{"n": {n}, "x": "{"x" * size}"}}\n' for n in range(lines)))


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("service", [SERVICE, SERVICE + FEED], ids=["consumer", "consumer and producer"])
def test_a_damaged_file_ends_the_process_with_one_error_that_says_what_to_do(
    cli: CommandLine, place: float, service: str
) -> None:
    # Given a file with a page of random bytes
    path = cli.directory / "messages.db"
    fill(cli, 2000, 500)
    cli.file("mine.py", service)
    assert cli.run("produce", "--exchange", "in", "--id", "me", "in.jsonl").returncode == 0
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size // PAGE_BYTES * place) * PAGE_BYTES)
        file.write(random.Random(3).randbytes(PAGE_BYTES))
    # When it is consumed
    done = cli.run("run", "mine")
    # Then
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if str(path) in line and " on main " not in line]
    assert len(errors) == 1, errors
    assert re.search(r"is damaged: stop all processes that use it, .* sqlite3 \S+ \.recover \| sqlite3 rec", errors[0])
    assert "subscribed again" not in done.stderr


def test_a_damaged_file_is_an_error_of_status_and_check(cli: CommandLine) -> None:
    path = cli.directory / "messages.db"
    fill(cli, 2000, 500)
    assert cli.run("produce", "--exchange", "in", "--id", "me", "in.jsonl").returncode == 0
    with path.open("r+b") as file:
        file.seek(3 * PAGE_BYTES)
        file.write(random.Random(3).randbytes(path.stat().st_size - 3 * PAGE_BYTES))
    for command in (["status"], ["check", "mine"], ["peek", "in", "q"]):
        done = cli.run(*command)
        assert (done.returncode, "is damaged" in done.stdout + done.stderr) == (1, True), command


@pytest.mark.parametrize(("lines", "size"), [(6_000, 1000), (60, 100_000), (20_000, 10)])
def test_consumers_take_and_acknowledge_while_the_queue_has_filled_the_disk(
    cli: CommandLine, small_disk: Path, lines: int, size: int
) -> None:
    # Given a disk that its queue has filled
    cli.environment["MQASYNC_BROKER"] = cli.url = f"sqlite:{small_disk}/test.db"
    fill(cli, lines, size)
    producing = cli.start("produce", "--exchange", "in", "--id", "me", "in.jsonl")
    producing.says("is full: publishing waits for consumers")
    # When it is consumed, everything goes through, what had no room yet as well
    consuming = cli.start("run", "mine")
    assert producing.ends() == 0
    cli.until_depth("in", "q", 0)
    cli.until_depth("in", "other", 0)
    with sqlite3.connect(small_disk / "test.db") as db:
        numbered = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'message'").fetchone()
    db.close()
    assert numbered == (2 * lines,), "nothing was published twice"
    for running in (producing, consuming):
        text = running.errors.lines
        assert sum("full" in line for line in text) <= 2, "\n".join(text)
        assert not [line for line in text if "subscribed again" in line or "cannot be used" in line], text
