"""Kafka's SASL OAUTHBEARER with tokens of a file and of a command: renewed ones are taken, and no text shows one."""

import asyncio
import json
import logging
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqasync import BrokerRefused, Message
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings

from .brokers import free_port
from .commands import CommandLine
from .conftest import Connect, required
from .servers.kafka import Kafka, kafka
from .waiting import until
from .working import idle, working

# It believes every token that is not expired, and ends connections that have had theirs for 4 s
PROPERTIES = """
listeners=PLAINTEXT://127.0.0.1:{{port}},TOKENS://127.0.0.1:{tokens},CONTROLLER://127.0.0.1:{{controller}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},TOKENS://127.0.0.1:{tokens}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,TOKENS:SASL_PLAINTEXT
listener.name.tokens.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.tokens.oauthbearer.connections.max.reauth.ms=4000
listener.name.tokens.oauthbearer.sasl.jaas.config=\\
    org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="me";
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Kafka]:
    port = free_port()
    with required(kafka(PROPERTIES.format(tokens=port))) as running:
        running.url = f"kafka://127.0.0.1:{port}?session=3&mechanism=OAUTHBEARER&"
        yield running


def token(seconds: float) -> str:
    """A JWT without a signature that ends so long from now."""
    claims = {"sub": "me", "iat": time.time() - 9, "exp": time.time() + seconds}
    parts = (urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "none"}, claims))
    return ".".join((*parts, ""))


async def test_a_renewed_token_is_taken_where_the_old_one_is_expired_and_after_a_restart(
    server: Kafka, exchange: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for logger in ("aiokafka", "mqasync"):
        caplog.set_level(logging.DEBUG, logger)
    # Given who works with a token that ends soon
    file, expires = tmp_path / "token", time.time() + 6.0
    file.write_text(f"{token(6.0)}\n")
    brokers = Brokers(Settings(brokers={"main": f"{server.url}tokenfile={file}"}))
    async with working(brokers, idle(exchange)) as (channel,):
        await brokers.publish(Message(body=b"1", exchange=exchange))
        await until(lambda: channel.counts.handled == 1, "the first is handled")
        # When it has ended, and the broker has ended the connections
        refused = re.compile("Unable connect to node .*SaslAuthenticationFailed")
        await until(lambda: time.time() > expires and bool(refused.search(caplog.text)), "the old one is refused")
        # Then what is published waits for the next token
        second = asyncio.ensure_future(brokers.publish(Message(body=b"2", exchange=exchange)))
        file.write_text(token(600.0))
        await second
        await until(lambda: channel.counts.handled >= 2, "the second is handled")
        # And a restart of the broker is survived
        server.kill()
        third = asyncio.ensure_future(brokers.publish(Message(body=b"3", exchange=exchange)))
        await asyncio.to_thread(server.start)
        await third
        await until(lambda: channel.counts.handled >= 3, "the third is handled")
    await brokers.close()
    assert "eyJ" not in caplog.text and "SaslHandShakeRequest" in caplog.text


async def test_a_command_is_run_without_a_shell_and_once_for_all_who_connect_at_the_time(
    server: Kafka, exchange: str, tmp_path: Path
) -> None:
    (tmp_path / "token of $me").write_text(token(600.0))
    (tmp_path / "get").write_text(f'#!/bin/sh\necho run >>{tmp_path}/runs\nexec cat "$1"\n')
    (tmp_path / "get").chmod(0o700)
    command = f"tokencommand={tmp_path}/get+'{tmp_path}/token+of+$me'"
    brokers = Brokers(Settings(brokers={"main": server.url + command}))
    async with working(brokers, idle(exchange)) as (channel,):
        await brokers.publish(Message(body=b"1", exchange=exchange))
        await until(lambda: channel.counts.handled == 1, "it is handled")
    await brokers.close()
    assert 1 <= (tmp_path / "runs").read_text().count("run") <= 3


async def test_an_expired_token_is_refused_as_a_wrong_password_is(
    server: Kafka, tmp_path: Path, connect: Connect
) -> None:
    (tmp_path / "token").write_text(token(-1.0))
    with pytest.raises(BrokerRefused, match="SaslAuthenticationFailed") as caught:
        await connect(f"{server.url}tokenfile={tmp_path}/token")
    assert "eyJ" not in repr(caught.value)


@pytest.mark.parametrize(
    ("way", "problem"),
    [
        ("tokenfile=nowhere", "tokenfile 'nowhere': No such file or directory"),
        ("tokenfile=empty", "tokenfile 'empty' contains no token"),
        ("tokencommand=cat+empty", "tokencommand 'cat' printed no token"),
        ("tokencommand=cat+two", "tokencommand 'cat' printed no token"),
        ("tokencommand=sh+-c+'echo+eyJ;echo+eyJ>%262;exit+3'", "tokencommand 'sh' ended with exit code 3"),
        ("tokencommand=sh+-c+'echo+eyJ;sleep+60'", "tokencommand 'sh' did not end within 5 s"),
        ("tokencommand=./not+there", "tokencommand './not': No such file or directory"),
    ],
)
def test_no_token_is_one_sentence_without_what_was_printed(
    way: str, problem: str, server: Kafka, cli: CommandLine
) -> None:
    cli.file("empty", " \n")
    cli.file("two", "eyJ0\neyJ1\n")
    cli.file("mine.py", "from mqasync import consumer\n@consumer(exchange='E', id='q')\nasync def q(body): ...")
    cli.environment["MQASYNC_BROKER"] = server.url + way
    done = cli.run("--log-level", "debug", "run", "mine")
    assert done.returncode == 2 and f"mqasync: {problem}\n" in done.stderr
    assert "eyJ" not in done.stdout + done.stderr and "Traceback" not in done.stderr


async def test_a_file_that_is_gone_for_a_while_is_waited_for(
    server: Kafka, exchange: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text(token(600.0))
    brokers = Brokers(Settings(brokers={"main": f"{server.url}tokenfile={file}"}))
    caplog.set_level(logging.ERROR, "aiokafka")
    async with working(brokers, idle(exchange)) as (channel,):
        file.unlink()
        await until(lambda: "holds no" in caplog.text or "No such file" in caplog.text, "it is missed")
        publishing = asyncio.ensure_future(brokers.publish(Message(body=b"1", exchange=exchange)))
        file.write_text(token(600.0))
        await publishing
        await until(lambda: channel.counts.handled == 1, "it is handled")
    await brokers.close()
