"""What strangers, wrong certificates and talkative errors could do to a service, and do not.

Only real brokers and real processes; what a frame can hold that no client library writes is in test_poison.py.
"""

import asyncio
import gzip
import re
import ssl
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aio_pika
import msgspec
import pytest
import trustme
import yaml
from aio_pika.abc import AbstractChannel
from cryptography.hazmat.primitives import serialization

from mqasync import (
    BrokerLost,
    BrokerRefused,
    ConfigurationError,
    Message,
    Out,
    Reject,
)
from mqasync import consumer as consumer_of
from mqasync import producer as producer_of
from mqasync.brokers.broker import Brokers
from mqasync.brokers.connection import Connection, load
from mqasync.cli.messages import consume, produce
from mqasync.config.settings import Settings, load_settings
from mqasync.message import new_id, output_id

from .brokers import RabbitMQ, free_port, rabbitmq
from .commands import CommandLine
from .conftest import required
from .test_user_mistakes import sentence
from .waiting import until
from .working import dead_letters, working

EVIL = "a\r\n12:00:00 forged\n12:00:00 forged \x1b[31m\0\x7f\x9b\u2028\u202e"
# TLS


class TLS:
    """A RabbitMQ that speaks TLS only to those whose certificate it trusts, and a directory of certificates."""

    def __init__(self, server: RabbitMQ, port: int, directory: Path) -> None:
        self.server, self.directory = server, directory
        self.plain = f"amqps://guest:guest@127.0.0.1:{server.port}/"
        self.url = f"amqps://guest:guest@127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def tls(certificates: Path) -> Iterator[TLS]:
    directory, port = certificates, free_port()
    key = serialization.load_pem_private_key((directory / "client.key").read_bytes(), None)
    (directory / "locked.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    (directory / "text").write_text("not a certificate")
    lines = [
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {directory}/ca.pem",
        f"ssl_options.certfile = {directory}/127.0.0.1.pem",
        f"ssl_options.keyfile = {directory}/127.0.0.1.pem",
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = true\n",
    ]
    with required(rabbitmq("\n".join(lines))) as server:
        yield TLS(server, port, directory)


@pytest.mark.parametrize("files", ["certfile=client.pem", "certfile=client.crt&keyfile=client.key"])
def test_messages_pass_over_tls_with_both_certificates(tls: TLS, files: str) -> None:
    rabbit = CommandLine(tls.directory, f"{tls.url}?cafile=ca.pem&{files}")
    queue = ("--exchange", f"E{new_id()}", "--id", "q")
    consumer = rabbit.start("consume", *queue, "-n", "1")
    assert rabbit.run("produce", *queue, '{"n":1}').returncode == 0
    consumer.says('{"n":1}')
    assert consumer.ends() == 0


OURS = "cafile=ca.pem&certfile=client.pem"
KEYS = "URL; valid keys: heartbeat, management, cafile, certfile, keyfile"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("{url}?certfile=client.pem", "its certificate is not trusted: self-signed certificate in certificate chain"),
        ("{url}?cafile=other-ca.pem&certfile=client.pem", "its certificate is not trusted: self-signed certificate"),
        ("{localhost}?" + OURS, "its certificate is not trusted: Hostname mismatch, certificate is not valid for 'loc"),
        ("{url}?cafile=ca.pem", "it ended the TLS handshake: certificate required; certfile= and keyfile= set a"),
        ("{url}?cafile=ca.pem&certfile=other-client.pem", "it ended the TLS handshake: unknown ca; certfile="),
        (
            "{plain}?" + OURS,
            "the server at this port does not speak TLS: use the URL scheme without TLS, or the port with TLS",
        ),
        ("{url}?cafile=text", "cafile 'text' is not a certificate in PEM"),
        ("{url}?cafile=nowhere", "cafile is 'nowhere', which is not a file"),
        ("{url}?cafile=", "cafile is '', which is not a file"),
        ("{url}?certfile=text", "certfile 'text' and keyfile 'text' are not a certificate and its private key, in PEM"),
        ("{url}?certfile=client.crt", "certfile 'client.crt' and keyfile 'client.crt' are not a certificate and its"),
        ("{url}?certfile=client.crt&keyfile=127.0.0.1.key", "certfile 'client.crt' and keyfile '127.0.0.1.key' are n"),
        ("{url}?certfile=client.crt&keyfile=locked.key", "certfile 'client.crt' and keyfile 'locked.key' are not a "),
        ("{url}?keyfile=client.key", "keyfile is the private key of a certificate; certfile must name the certificate"),
        ("amqp://127.0.0.1/?cafile=ca.pem", "cafile is for amqps://; an amqp:// URL connects without encryption"),
    ],
)
def test_tls_that_cannot_work_is_refused_at_once_in_one_sentence(tls: TLS, url: str, expected: str) -> None:
    url = url.format(url=tls.url, plain=tls.plain, localhost=tls.url.replace("127.0.0.1", "localhost"))
    said = sentence(CommandLine(tls.directory, url).run("produce", "--exchange", "CTH", "--id", "me", "{}"))
    assert expected in said
    assert "guest:guest" not in said


async def test_an_expired_certificate_is_refused(tls: TLS) -> None:
    # Given a server, RabbitMQ or not, whose certificate a trusted authority issued and which ended yesterday
    authority, yesterday = trustme.CA(), datetime.now(UTC) - timedelta(days=1)
    authority.cert_pem.write_to_path(tls.directory / "old-ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", not_after=yesterday).configure_cert(context)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"amqps://guest:guest@127.0.0.1:{port}/?cafile={tls.directory}/old-ca.pem"
        broker = Brokers(Settings(brokers={"main": url})).route("CTH")
        with pytest.raises(BrokerRefused, match="its certificate is not trusted: certificate has expired"):
            await broker.connected()


async def test_files_that_are_being_replaced_do_not_end_a_service_that_connects_again(
    tls: TLS, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes((tls.directory / "ca.pem").read_bytes())
    url = f"{tls.url}?cafile={authority}&certfile={tls.directory}/client.pem"
    brokers = Brokers(Settings(brokers={"main": url}))
    broker = brokers.route("CTH")
    first = await broker.connected()
    # When the connection is lost while the file is away
    content = authority.read_bytes()
    authority.unlink()
    broker.lost(first, BrokerLost("for a test"))
    again = asyncio.create_task(broker.connected())
    await until(lambda: broker._failures > 2, "two more attempts have failed")
    # Then it is connected again when the file is back
    authority.write_bytes(content)
    assert await again is not first
    await brokers.close()


# secrets

WORDS = ("zebra", "quagga", "tapir", "okapi", "kudu")
PASSWORD = "zebra/quagga@tapir#okapi?kudu"
NOISY = """
import logging
import aio_pika
from aio_pika.abc import AbstractChannel
from mqasync import consumer, producer

for name in (None, *logging.root.manager.loggerDict):
    logging.getLogger(name).setLevel(logging.DEBUG)

@producer(exchange="noisy", id="p")
async def produce():
    return {}

@consumer(exchange="noisy", id="q", retries=0)
async def fail(event):
    raise ValueError("as ever")
"""
SOURCES = ["${PASSWORD}", "${file:password}", quote(PASSWORD, safe="")]
WAYS = {  # where: exit code and what is said
    "amqp://user:{password}@127.0.0.1:{port}/": (0, "in the dead-letter queue of noisy/q"),
    "amqp://guest:{password}@127.0.0.1:{port}/": (2, "ACCESS_REFUSED"),
    "amqp://user:{password}@127.0.0.1:{port}/nowhere": (2, "there is no such virtual host, or no permission for it"),
    "amqp://user:{password}@127.0.0.1:{nobody}/": (1, "cannot be reached"),
    "amqps://user:{password}@127.0.0.1:{port}/": (2, "does not speak TLS"),
    "amqps://user:{password}@127.0.0.1:{port}/?cafile=nowhere": (2, "which is not a file"),
    "amqp://user:{password}@127.0.0.1:{port}/?verify=0": (2, KEYS),
    "amqp://user:{password}@127.0.0.1:{port}x/": (2, "cannot be read as a URL"),
    "rabbit://user:{password}@127.0.0.1/": (2, "unknown URL scheme"),
}


@pytest.fixture(scope="module")
def user(rabbitmq_server: RabbitMQ) -> None:
    rabbitmq_server.control("add_user", "user", PASSWORD)
    rabbitmq_server.control("set_permissions", "user", ".*", ".*", ".*")


def secretless(text: str) -> bool:
    return not any(word in text for word in WORDS)


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize(
    ("way", "source"), [*zip(WAYS, SOURCES * 3, strict=True), *((next(iter(WAYS)), s) for s in SOURCES[1:])]
)
def test_no_output_of_a_command_shows_a_password(
    cli: CommandLine, rabbitmq_server: RabbitMQ, way: str, source: str
) -> None:
    """Even where a service sets every logger to DEBUG."""
    cli.file("noisy.py", NOISY)
    cli.file("password", PASSWORD)
    cli.environment |= {"PASSWORD": PASSWORD, "PYTHONASYNCIODEBUG": "1"}
    url = way.format(password=source, port=rabbitmq_server.port, nobody=free_port())
    cli.file("config.yml", f"brokers:\n  main: {url}")
    code, expected = WAYS[way]
    done = cli.run("run", "noisy", "--until-idle", "--wait", "400ms" if code == 1 else "20s")
    assert done.returncode == code, done.stderr
    assert expected in done.stderr
    assert secretless(done.stdout + done.stderr)


@pytest.mark.parametrize("source", SOURCES, ids=["environment", "file", "in the URL"])
def test_no_repr_no_error_and_no_shown_configuration_holds_a_password(
    cli: CommandLine, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cli.directory)
    monkeypatch.setenv("PASSWORD", PASSWORD)
    cli.environment["PASSWORD"] = PASSWORD
    cli.file("password", PASSWORD)
    cli.file("config.yml", f"brokers:\n  main: amqp://user:{source}@127.0.0.1:{free_port()}/")
    settings = load_settings()
    broker = Brokers(settings).route("CTH")
    shown = cli.run("config")
    assert shown.returncode == 0
    transport = load(settings.brokers["main"])
    assert secretless(f"{settings!r} {settings} {broker!r} {vars(broker)['address']} {transport!r} {shown.stdout}")
    with pytest.raises(BrokerLost) as caught:
        asyncio.run(transport.open())
    assert secretless("".join(traceback.format_exception(caught.value)) + repr(caught.value.__cause__))


# names

NAMES = [
    "a\nb",
    "a\rb",
    "a\0b",
    "a\x1b[31m",
    "a/b",
    "a b",
    "x" * 81,
    "café",
    "\u0430dmin",
    "a\u202eb",
    "",
    "*",
    "a#",
]
NAMES_BY_KIND = [("exchange", name) for name in [*NAMES, "amq.topic", "CTH.retry"]]
NAMES_BY_KIND += [("id", name) for name in [*NAMES, "q.dead", "dead", "q.1"]]


@pytest.mark.parametrize(("kind", "name"), NAMES_BY_KIND)
def test_a_name_that_could_mean_something_else_is_refused_everywhere(kind: str, name: str, tmp_path: Path) -> None:
    async def handle(event: Any) -> None: ...

    both = {"exchange": "CTH", "id": "me"} | {kind: name}
    words = ["--exchange", both["exchange"], "--id", both["id"], "--broker", "memory:"]
    exchanges = {both["exchange"]: {"requires": [both["id"]]}}
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump({"exchanges": exchanges}))
    ways: list[Callable[[], object]] = [
        lambda: consumer_of(exchange=both["exchange"], id=both["id"])(handle),
        lambda: producer_of(exchange=both["exchange"], id=both["id"])(handle),
        lambda: load_settings(str(file)),
        lambda: produce.main([*words, "{}"], standalone_mode=False),
        lambda: consume.main(words, standalone_mode=False),
    ]
    if kind == "exchange":
        ways.append(lambda: consumer_of(exchange="CTH", id="me", to=name)(handle))
    for way in ways:
        with pytest.raises(ConfigurationError, match=f"cannot be an {kind}: ") as caught:
            way()
        assert str(caught.value).isprintable()


# headers


@pytest.fixture
def url(rabbitmq_url: str) -> str:
    return rabbitmq_url


@pytest.fixture
async def stranger(url: str) -> AsyncIterator[AbstractChannel]:
    """Somebody who publishes with aio-pika, and knows nothing of mqasync."""
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel()


async def put(stranger: AbstractChannel, exchange: str, body: bytes, **properties: Any) -> None:
    await (await stranger.get_exchange(exchange)).publish(aio_pika.Message(body, **properties), routing_key="")


async def test_copied_and_forged_headers_reach_no_other_queue_and_count_for_nothing(
    brokers: Brokers, stranger: AbstractChannel
) -> None:
    first, second, victim = f"E{new_id()}", f"E{new_id()}", f"victim-{new_id()}"
    arrived: list[Message] = []

    @consumer_of(exchange=first, id="q", to=second, backoff=0.1)
    async def copy(event: dict[str, str], message: Message) -> Any:
        if event["do"] == "retry" and message.attempt == 1:
            raise ValueError("once")
        if event["do"] == "dead-letter":
            raise Reject("as it says")
        forged = {"CC": victim, "BCC": victim, "mqasync-id": "forged", "mqasync-attempt": "7", "CCTV": "kept"}
        return Out(event, headers=message.headers | (forged if event["do"] == "forge" else {}))

    @consumer_of(exchange=second, id="s")
    async def sink(event: dict[str, str], message: Message) -> None:
        arrived.append(message)

    headers: dict[str, Any] = {"CC": [victim], "BCC": [victim], "x-death": [{"count": 9}], "x-delivery-count": 99}
    headers |= {"mqasync-key": "k", "mqasync-time": "yesterday", "trace": "kept"}
    odd: dict[str, Any] = {"user_id": "guest", "expiration": 60, "priority": 9, "reply_to": victim, "type": "x"}
    async with working(brokers, copy, sink):
        queue = await stranger.declare_queue(victim)
        await (await brokers.route(second).connected()).declare(second, "raw")
        # When a stranger forges what he can
        for do in ("copy", "retry", "dead-letter", "forge"):
            body = b'{"do": "%s"}' % do.encode()
            await put(stranger, first, body, headers=headers | {"mqasync-id": do}, **odd)
        headers |= {"mqasync-id": "attempt", "mqasync-attempt": 2**62}
        await put(stranger, first, b'{"do": "attempt"}', headers=headers, **odd)
        # Then all that is handled arrives once, as a message of ours
        await until(lambda: len(arrived) >= 4, "four have arrived")
        (dead,) = await dead_letters(brokers, first, "q", 1)
        assert {message.id for message in arrived} == {
            output_id(id, second, "q", 0) for id in ("copy", "retry", "forge", "attempt")
        }
        assert all(message.attempt == 1 and message.producer == "q" and message.key is None for message in arrived)
        assert all(set(message.headers) <= {"trace", "CCTV"} for message in arrived)
        assert [message.headers for message in arrived].count({"trace": "kept"}) == 3
        assert not [name for name in dead.headers if name != "trace" and not name.startswith("dead-")]
        # And without a property that RabbitMQ acts on
        raw = await stranger.get_queue(f"{second}.raw")
        for _ in range(4):
            copied = await raw.get(no_ack=True)
            assert copied is not None
            assert not (copied.user_id or copied.expiration or copied.reply_to or copied.priority or copied.type)
        # And the queue that he named is empty
        assert (await queue.declare()).message_count == 0
        await queue.delete()


async def test_a_compressed_body_is_handed_over_as_it_came(
    brokers: Brokers, exchange: str, stranger: AbstractChannel
) -> None:
    handled: list[bytes] = []

    @consumer_of(exchange=exchange, id="q")
    async def handle(event: bytes) -> None:
        handled.append(event)

    bomb = gzip.compress(bytes(100_000_000), 1)
    async with working(brokers, handle):
        await put(stranger, exchange, bomb, content_encoding="gzip", content_type="application/json")
        await until(lambda: handled == [bomb], "it is handled")


# logs

LOUD = """
import logging
from mqasync import Message, Out, consumer

log = logging.getLogger("service")

@consumer(exchange="{exchange}", id="q", retries=0, concurrency=1)
async def handle(event: dict, message: Message):
    log.warning("from %s by %s with %s", message.id, message.producer, message.headers)
    try:
        raise KeyError(event["text"]) from ValueError(event["text"])
    except KeyError:
        log.exception("caught: %s", event["text"])
    if event["do"] == "raise":
        raise ValueError(event["text"])
    if event["do"] == "put out":
        return Out({{}}, exchange=event["text"])
"""


def unforged(stderr: str) -> bool:
    """Every line is a log line, or one of a traceback, and nobody's control characters are in it."""
    lines = stderr.removesuffix("\n").split("\n")
    return all(line.isprintable() and re.match(r"\d\d:\d\d:\d\d (?!forged)|  |mqasync: ", line) for line in lines)


async def test_nobody_forges_a_line_of_the_log(
    tmp_path: Path, url: str, exchange: str, stranger: AbstractChannel, transport: Connection
) -> None:
    await transport.declare(exchange, "q")
    rabbit = CommandLine(tmp_path, url)
    rabbit.file("loud.py", LOUD.format(exchange=exchange))
    # Given messages of a stranger in the queue, in which everything that is text is evil
    for do in ("raise", "put out"):
        body = msgspec.json.encode({"do": do, "text": EVIL})
        headers = {EVIL: EVIL, "mqasync-key": EVIL}
        await put(stranger, exchange, body, message_id=EVIL, app_id=EVIL, type=EVIL, headers=headers)
    await put(stranger, exchange, EVIL.encode(), message_id=EVIL, headers={"mqasync-id": EVIL * 5})
    done = rabbit.run("run", "loud", "--until-idle")
    assert done.returncode == 0
    assert re.search(r" 3 in the dead-letter queue of .*; last error: ", done.stderr)
    assert done.stderr.count("Traceback") == 2
    assert done.stderr.count("forged") > 20
    assert unforged(done.stderr)


@pytest.mark.parametrize("error", ["ValueError", "mqasync.MqasyncError"])
def test_the_error_that_ends_a_service_forges_no_line_either(cli: CommandLine, error: str) -> None:
    cli.file("broken.py", f"import mqasync\nraise {error}({EVIL!r})")
    done = cli.run("run", "broken")
    assert done.returncode == 1
    assert "forged" in done.stderr
    assert unforged(done.stderr)
