"""No secret shows: not in the log, in an error, in a dead letter, in a report, however it is spelled there."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from yarl import URL

from mqasync import BrokerRefused, Reject
from mqasync.config.settings import Settings, load_settings
from mqasync.handlers.failure import describe
from mqasync.handlers.reply import failure
from mqasync.masking import conceal, hide
from mqasync.message import Message

from .commands import CommandLine

KEY = "-----BEGIN KEY-----\nMIIEpAIB/+AAK\nq83v=\n-----END KEY-----\n"
SPELLINGS: list[Callable[[str], str]] = [
    str,
    repr,
    ascii,
    json.dumps,
    quote,
    quote_plus,
    re.escape,
    lambda text: quote(text, safe="").lower(),
    lambda text: str(URL.build(scheme="amqp", host="h", user="u", password=text)),
    lambda text: json.dumps({"key": text}, ensure_ascii=False),
    lambda text: repr(text.encode()),
    lambda text: repr(f'{text!r} and "it\'s"'),
    lambda text: str(KeyError(f"{text!r}'")),
    lambda text: json.dumps(json.dumps(text)),
]
SERVICE = """
import logging
from contextlib import asynccontextmanager
from mqasync import Reject, consumer, producer

@producer(exchange="CTH", id="feed")
async def feed():
    yield {{}}

@asynccontextmanager
async def lifespan(settings: dict):
    yield {{"secret": settings["key"], "password": settings["password"]}}

@consumer(exchange="CTH", id="q", retries=0)
async def handle(event: dict, secret, password):
    logging.getLogger("service").warning("with %s and %r", secret, [password])
    try:
        raise OSError(secret)
    except OSError:
        logging.exception("odd")
        raise {error}(f"{{secret}}|{{password!r}}")
"""


@pytest.mark.parametrize("spelled", SPELLINGS)
@pytest.mark.parametrize("secret", ["hunter2", "a/b@c d+e", 'it\'s "q" ü€😀', "back\\slash", "tab\tend", "%2f!$&x"])
def test_a_secret_is_hidden_however_it_is_spelled(secret: str, spelled: Callable[[str], str]) -> None:
    text = f"before {spelled(secret)} after"
    conceal(secret)
    assert hide(text) == text.replace(spelled(secret).strip("\"'"), "***") or "***" in hide(text)
    letters = re.sub(r"\W|\d", "", secret)
    assert letters not in re.sub(r"\W|\d", "", hide(text))


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_each_line_of_a_long_secret_is_hidden(spelled: Callable[[str], str]) -> None:
    conceal(KEY)
    assert not re.search("MIIE|AAK|q83v|BEGIN", hide(spelled(KEY)))
    assert not re.search("MIIE|AAK|q83v|BEGIN", hide("\n  ".join(spelled(line) for line in KEY.splitlines())))


@pytest.mark.parametrize("secret", ["", " ", "\n", "a", "5", "in", "the", "\n\n a\n"])
def test_a_secret_that_is_nothing_or_part_of_many_words_hides_nothing(secret: str) -> None:
    conceal(secret)
    text = "attempt 5 of the message in hand: a line\nand a line"
    assert hide(text) == text


def test_a_longer_secret_goes_before_one_that_is_part_of_it() -> None:
    for secret in ("hunter", "hunter2", "2hunter2"):
        conceal(secret)
    assert hide("2hunter2, hunter2, hunter") == "***, ***, ***"


@pytest.mark.parametrize(
    ("url", "texts", "hidden"),
    [
        ("amqp://user@corp:hunter2@h/", "user@corp hunter2 h", "user@corp *** h"),
        ("amqp://user:a%2fb%40c@h/", "a%2fb%40c a/b@c a%2Fb%40c", "*** *** ***"),
        ("redis://:hunter2@h,h2/0", "hunter2", "***"),
        ("nats://h?token=hunter2&lease=5", "hunter2 lease", "*** lease"),
        ("amqps://h/?keyfile=/tls/key.pem", "/tls/key.pem", "/tls/key.pem"),
        ("kafka://h?tokenfile=/run/token&tokencommand=get+--for=me", "/run/token get --for=me", "/run/token ***"),
        ("amqp://guest:guest@h/", "guest", "guest"),  # it is shown as the user's name anyway
        ("amqp://host:5672/", "host 5672", "host 5672"),
    ],
)
def test_the_secrets_of_a_url_are_hidden_and_nothing_else_of_it(url: str, texts: str, hidden: str) -> None:
    Settings(brokers={"main": url})
    assert hide(texts) == hidden


def test_errors_their_descriptions_and_replies_show_no_secret() -> None:
    conceal("hunter2  x")
    for error in (BrokerRefused("no hunter2  x"), Reject("no hunter2  x"), ValueError("no hunter2  x")):
        assert describe(error) == f"{type(error).__name__}: no ***"
        assert b"hunter2" not in failure(Message(body=b"", exchange="CTH"), error, "q").body
    assert repr(BrokerRefused("no hunter2  x")) == "BrokerRefused('no ***')"


@pytest.mark.parametrize("error", ["ValueError", "Reject", "KeyError"])
@pytest.mark.parametrize("format", ["human", "json"])
def test_no_secret_gets_into_the_log_and_the_dead_letters(cli: CommandLine, error: str, format: str) -> None:
    cli.file("key", KEY)
    cli.file("password", "pa'ss\\word\n")
    cli.file("service.py", SERVICE.format(error=error))
    broker = "brokers: {main: '${MQASYNC_BROKER}', other: 'amqp://me:un%2Fused@h/'}"
    cli.file("config.yml", f"{broker}\nservices: {{service: {{key: '${{file:key}}', password: '${{file:password}}'}}}}")
    done = cli.run("--log-format", format, "run", "service", "--until-idle")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 1), done.stderr
    # Then not in a row of the store either
    shown = cli.run("dead", "export", "CTH", "q")
    assert json.loads(shown.stdout)["headers"]["dead-exception"].endswith(error)
    stored = b"".join(path.read_bytes() for path in cli.directory.glob("messages.db*")).decode(errors="replace")
    for text in (done.stderr, shown.stdout, stored):
        assert "***" in text
        assert not re.search("MIIE|AAK|q83v|BEGIN|pa.{1,3}ss|word'", text)


def test_what_ends_a_command_shows_no_secret(cli: CommandLine) -> None:
    cli.file("key", KEY)
    cli.file("config.yml", "services: {service: {key: '${file:key}'}}")
    code = "from mqasync.config.settings import load_settings\nraise {}(load_settings().services['service']['key'])"
    for error in ("ValueError", "__import__('mqasync').ConfigurationError"):
        cli.file("service.py", code.format(error))
        for format in ("human", "json"):
            done = cli.run("--log-format", format, "run", "service")
            assert "***" in done.stderr and not re.search("MIIE|q83v|BEGIN", done.stderr)


def test_a_program_shows_no_secret_whoever_formats_its_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Given a program with a log of its own
    (tmp_path / "password").write_text("hunter2\n")
    (tmp_path / "config.yml").write_text(f"services: {{x: {{password: '${{file:{tmp_path}/password}}'}}}}")
    load_settings(str(tmp_path / "config.yml"))
    try:
        raise ValueError("no hunter2")
    except ValueError:
        logging.getLogger("mqasync").exception("with %r", {"password": "hunter2"})
    assert "with {'password': '***'}" in caplog.text
    assert "ValueError: no ***" in caplog.text
    assert "hunter2" not in caplog.text
