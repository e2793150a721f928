"""What is put out travels as bytes and text, the same on every broker, or is refused there."""

from __future__ import annotations

import enum
import sqlite3
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from mqasync import ConfigurationError, Message, Out, Producer, Requester, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.handlers.step import outgoing
from mqasync.testing import run_service

from .commands import CommandLine

NUMBER = UUID("6f1c0c5a-93b5-4f0e-8f5b-6d7161737963")


class Color(str, enum.Enum):  # noqa: UP042, its str() is another text
    RED = "red"


class Loud(str):
    def __str__(self) -> str:
        return self.upper()


class Silent:
    def __repr__(self) -> str:
        raise ValueError("no")


REFUSED = [
    ({"key": 7}, "key is 7; it takes text, a UUID or an IP address"),
    ({"key": 0}, "key is 0; it takes text"),
    ({"key": b"x"}, "key is b'x'; it takes text"),
    ({"key": ("a", 1)}, r"key is \('a', 1\); it takes text"),
    ({"key": IPv4Network("192.0.2.0/24")}, r"key is IPv4Network.*; it takes text"),
    ({"key": Silent()}, "key is <Silent instance at .*; it takes text"),
    ({"id": 5}, "id is 5; it takes text, a UUID or an IP address"),
    ({"id": False}, "id is False; it takes text"),
    ({"id": ["x"]}, r"id is \['x'\]; it takes text"),
    ({"headers": {"n": 1}}, "header 'n' is 1; it takes text$"),
    ({"headers": {"n": None}}, "header 'n' is None; it takes text$"),
    ({"headers": {"n": NUMBER}}, "header 'n' is UUID.*; it takes text$"),
    ({"headers": {7: "x"}}, "a header's name is 7; it takes text$"),
    ({"headers": [("n", "x")]}, r"headers are \[\('n', 'x'\)\]; they take a dict of text by text"),
    ({"headers": "n"}, "headers are 'n'; they take a dict"),
]
TEXT = [
    (NUMBER, str(NUMBER)),
    (IPv4Address("192.0.2.7"), "192.0.2.7"),
    (IPv6Address("2001:db8::1"), "2001:db8::1"),
    (IPv4Interface("192.0.2.7/24"), "192.0.2.7/24"),
    (Color.RED, "red"),
    (Loud("quiet"), "quiet"),
    ("é\n", "é\n"),
]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        *REFUSED,
        ({"headers": None}, "headers are None; they take a dict"),
        ({"exchange": 7}, "7 cannot be an exchange"),
        ({"exchange": ""}, "'' cannot be an exchange"),
    ],
)
def test_what_is_no_text_is_refused_in_one_sentence(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        outgoing(Out({}, **given), "E", "p")


@pytest.mark.parametrize("body", [Out(1), [Out(1), Out(2)], (Out(1),)])
def test_an_out_inside_another_or_in_a_list_is_refused(body: Any) -> None:
    with pytest.raises(ConfigurationError, match="an Out cannot be inside another Out or in a list"):
        outgoing(Out(body), "E", "p")


@pytest.mark.parametrize(("given", "text"), TEXT)
def test_natural_keys_and_every_kind_of_text_become_plain_text(given: Any, text: str) -> None:
    message = outgoing(Out({}, key=given, id=given, headers={"given": Loud("x")}), "E", "p")
    assert (message.id, message.key, message.headers) == (text, text, {"given": "x"})
    assert {type(value) for value in (message.id, message.key, message.headers["given"])} == {str}


def test_headers_that_are_changed_later_stay_as_they_were_put_out() -> None:
    headers = {"n": "1"}
    message = outgoing(Out({}, headers=headers), "E", "p")
    headers["n"] = "2"
    assert message.headers == {"n": "1"}


@pytest.mark.parametrize(("given", "problem"), REFUSED)
async def test_a_program_is_told_at_once_and_the_queue_stays_empty(
    given: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    url = f"sqlite:{tmp_path}/outgoing.db"
    brokers = Brokers(Settings(brokers={"main": url}))
    transport = await brokers.route("E").connected()
    await transport.declare("E", "q")
    async with Producer(exchange="E", id="p", broker=url) as program:
        with pytest.raises(ConfigurationError, match=problem):
            await program.produce({}, **given)
        with pytest.raises(ConfigurationError, match=problem):
            await program.produce_many([Out({}, **given)])
    if "id" not in given:
        async with Requester(broker=url) as request:
            with pytest.raises(ConfigurationError, match=problem):
                await request("E", {}, **given)
    stats = await transport.stats("E", "q")
    await brokers.close()
    assert stats and stats.total == 0


async def test_a_handler_that_puts_it_out_fails_and_the_next_one_gets_plain_text() -> None:
    """Given a handler that gives each output another key, some of which cannot travel; two consumers take them."""
    received: list[Message] = []

    @consumer(exchange="in", id="number", to="out", retries=0)
    async def number(body: int) -> Out:
        keys: list[Any] = [NUMBER, Loud("x"), 7]
        return Out(body, key=keys[body], headers={"n": Color.RED})

    async def keep(body: int, message: Message) -> None:
        received.append(message)

    takers = [consumer(exchange="out", id=id)(keep) for id in ("one", "two")]
    async with run_service(number, *takers) as service:
        for body in range(3):
            await service.publish("in", body, key=NUMBER)
        await service.quiet()
    assert sorted(str(message.key) for message in received) == sorted([str(NUMBER), "x"] * 2)
    assert {type(message.key) for message in received} == {str}
    assert [message.headers for message in received] == [{"n": "red"}] * 4
    assert len({id(message.headers) for message in received}) == 4, "nobody gets another's objects"
    assert [letter.headers["dead-message"] for letter in service.dead_lettered] == [
        "key is 7; it takes text, a UUID or an IP address"
    ]


ROWS = {
    "a key that is a number": ('["a",1.5,1,"",7]', b"1"),
    "an id that is a number": ("[5,1.5]", b"2"),
    "headers that are numbers": ('["a",1.5,1,"",null,{"n":1}]', b"3"),
    "no JSON": ("nonsense", b"4"),
    "no UTF-8": (b"\xff\xfe", b"5"),
    "not even text": (17, b"6"),
    "nested without end": ('["a",' + "[" * 100_000, b"7"),
    "a body that is text": ('["a",1.5]', "8"),
    "a body that is a number": ('["a",1.5]', 9),
}


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """A store in which rows stand that mqasync would not write, from whomever."""
    command_line = CommandLine(tmp_path, f"sqlite:{tmp_path}/x.db")
    command_line.declare("E", "q")
    with sqlite3.connect(tmp_path / "x.db") as db:
        for envelope, body in ROWS.values():
            as_text = "CAST(? AS TEXT)" if isinstance(envelope, bytes) else "?"
            db.execute(
                f"INSERT INTO message (queue, due, envelope, body) SELECT queue, 0, {as_text}, ? FROM queue",
                (envelope, body),
            )
    db.close()
    return command_line


def test_whatever_stands_in_a_store_can_be_looked_at_dead_lettered_and_purged(cli: CommandLine) -> None:
    """Given rows in a queue that cannot be read, when they are peeked at, handled and purged."""
    peeked = cli.run("peek", "E", "q", "--json")
    assert (peeked.returncode, peeked.stderr) == (0, "")
    assert [row["body"] for row in msgspec.json.decode(peeked.stdout)] == [1, 2, 3, 4, 5, 6, 7, 8, 9]

    cli.file("mine.py", "from mqasync import consumer\n\n@consumer(exchange='E', id='q')\nasync def f(body): ...\n")
    ran = cli.run("run", "mine", "--until-idle")
    assert "Traceback" not in ran.stderr
    assert cli.depth("E", "q") == 0
    letters = cli.run("dead", "list", "E", "q", "--json")
    assert letters.returncode == 0
    assert {row["headers"]["dead-reason"] for row in msgspec.json.decode(letters.stdout)} == {"InvalidMessage"}
    assert len(msgspec.json.decode(letters.stdout)) == len(ROWS)


def test_a_queue_of_rows_that_cannot_be_read_is_purged(cli: CommandLine) -> None:
    purged = cli.run("purge", "E", "q", "--yes")
    assert (purged.returncode, cli.depth("E", "q")) == (0, 0)
