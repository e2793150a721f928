"""config.yml: what is filled in, what is refused and where, what is shown."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from mqasync import ConfigurationError
from mqasync.config.settings import ExchangeSettings, load_settings
from mqasync.handler import ConsumerOptions
from mqasync.masking import masked, shown
from mqasync.service.discovery import Service
from mqasync.service.lifespan import lifespan_settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MQASYNC_BROKER", raising=False)
    monkeypatch.delenv("MQASYNC_CONFIG", raising=False)


def write(text: str) -> str:
    Path("config.yml").write_text(text)
    return "config.yml"


def test_without_any_file_the_broker_is_sqlite_here() -> None:
    assert load_settings().brokers == {"main": "sqlite:mqasync.db"}


def test_the_environment_names_the_default_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQASYNC_BROKER", "memory:")
    assert load_settings().brokers == {"main": "memory:"}


def test_variables_defaults_and_files_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "from the environment")
    Path("secret").write_text("a/b@c\n")
    write(
        """
        brokers:
          main: ${UNSET:sqlite:x.db}
          rabbit: amqp://guest:${file:secret}@rabbit/
        consumers:
          CTH/enrich: {concurrency: "${UNSET:50}", retries: 8, to: enriched, timeout: 10m}
        services:
          some.module: {name: "${NAME}", list: ["${NAME}!"], token: "${file:secret}"}
        """
    )
    settings = load_settings()
    assert settings.brokers == {"main": "sqlite:x.db", "rabbit": "amqp://guest:a%2Fb%40c@rabbit/"}
    assert settings.consumers == {"CTH/enrich": {"concurrency": "50", "retries": 8, "to": "enriched", "timeout": "10m"}}
    options = settings.consumer_options("CTH", "enrich", ConsumerOptions(backoff=3.0))
    assert options == ConsumerOptions(concurrency=50, retries=8, to=("enriched",), timeout=600.0, backoff=3.0)
    name = "from the environment"
    assert settings.services == {"some.module": {"name": name, "list": [f"{name}!"], "token": "a/b@c"}}


@pytest.mark.parametrize(
    "text",
    ["NO", "null", "~", "#abc", "a: b", "0123456", "12:30:45", "1e3", "  two  words ", "line\nline", "''", "$1", "${X}"]
    + [f"{first}secret" for first in "@%!&*[{`|>-?'\"\\"],
)
@pytest.mark.parametrize("source", ["environment", "file"])
def test_a_value_from_outside_is_text_as_it_stands_there(
    text: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALUE", text)
    Path("value").write_text(f"{text}\n")
    what = {"environment": "${VALUE}", "file": "${file:value}"}[source]
    write(f'services: {{module: {{whole: "{what}", part: "<{what}>", list: ["{what}"]}}}}')
    assert load_settings().services == {"module": {"whole": text, "part": f"<{text}>", "list": [text]}}


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"a\n", "a"), (b"a\r\n", "a"), (b" a \n\n", " a \n"), (b"a\r\nb\r\n", "a\r\nb"), (b"\n", ""), (b"", "")],
)
def test_of_a_file_one_line_end_is_cut_and_nothing_else(content: bytes, text: str) -> None:
    Path("value").write_bytes(content)
    write('services: {module: {key: "${file:value}"}}')
    assert load_settings().services == {"module": {"key": text}}


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("$${X}", "${X}"),
        ("$${file:nowhere} and ${X}", "${file:nowhere} and x"),
        ("$$${X}", "$x"),
        ("$$$${X:y}", "$${X:y}"),
        ("$$ $1 $$1 {X}", "$$ $1 $$1 {X}"),
    ],
)
def test_two_dollars_write_one(written: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", "x")
    write(f"services: {{module: {{key: '{written}'}}}}")
    assert load_settings().services == {"module": {"key": text}}


def test_the_type_that_asks_decides_what_a_text_means() -> None:
    write(
        """
        exchanges: {CTH: {optional: "${OPTIONAL:true}", options: {x-max-length: "${LENGTH:100}", x-mode: "${M:1 a}"}}}
        consumers: {CTH/q: {concurrency: "${N:5}", prefetch: "${N:20}", timeout: "${T:1.5}", retries: "${R:0}"}}
        """
    )
    settings = load_settings()
    assert settings.exchanges["CTH"] == ExchangeSettings(optional=True, options={"x-max-length": 100, "x-mode": "1 a"})
    options = ConsumerOptions(concurrency=5, prefetch=20, timeout=1.5, retries=0)
    assert settings.consumer_options("CTH", "q", ConsumerOptions()) == options


class Typed(msgspec.Struct):
    number: int
    share: float
    flag: bool
    code: str
    maybe: str | None
    names: list[str] = []


@asynccontextmanager
async def lifespan(settings: Typed) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("names", ["", "names: [a, '${NAME:b}']", "names: '${NAMES:[a, b]}'"])
def test_lifespan_gets_texts_as_its_types_say_and_never_a_list_of_one(names: str) -> None:
    number = "{number: '${N:5}', share: '${S:0.5}', flag: '${F:false}', code: '${C:0123}', maybe: '${M:null}'"
    write(f"services: {{module: {number}, {names}}}}}")
    service = Service("module", [], [], lifespan)
    if "NAMES" in names:
        with pytest.raises(ConfigurationError, match=r"services.module .* `array`, got `str` - at `\$.names`"):
            lifespan_settings(service, load_settings())
    else:
        expected = Typed(5, 0.5, False, "0123", "null", ["a", "b"] if names else [])
        assert lifespan_settings(service, load_settings()) == [expected]


@pytest.mark.parametrize("config", ["", "brokers: {main: '${MQASYNC_BROKER:sqlite:mqasync.db}'}"])
def test_an_own_variable_that_is_empty_counts_as_not_set(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQASYNC_BROKER", "")
    monkeypatch.setenv("MQASYNC_CONFIG", "")
    write(config)
    assert load_settings().brokers == {"main": "sqlite:mqasync.db"}
    write("brokers: {main: '${MQASYNC_BROKER}'}")
    with pytest.raises(ConfigurationError, match="MQASYNC_BROKER is not set"):
        load_settings()


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("amqp://${U}:${P}@${H}/${V}", "amqp://user%40corp:a%2F%3Fb%40c@host:1/v%2F/w"),
        ("amqp://x-${U}:y-${P}-z@host", "amqp://x-user%40corp:y-a%2F%3Fb%40c-z@host"),
        ("amqp://${U}:${file:secret}@host", "amqp://user%40corp:p%20%25@host"),
        ("amqp://host/?token=${P}&file=${V}", "amqp://host/?token=a%2F%3Fb%40c&file=v%252F%2Fw"),
        ("${S}host", "amqp://host"),
    ],
)
def test_what_is_filled_into_a_part_of_a_url_is_quoted(written: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secret").write_text("p %\n")
    for name, value in {"U": "user@corp", "P": "a/?b@c", "H": "host:1", "V": "v%2F/w", "S": "amqp://"}.items():
        monkeypatch.setenv(name, value)
    write(f"brokers: {{main: '{written}'}}")
    assert load_settings().brokers == {"main": url}


def test_no_secret_is_shown() -> None:
    Path("secret").write_text("hidden")
    write(
        """
        brokers:
          main: amqp://guest:${file:secret}@rabbit/?certfile=x
          other: redis://:hidden@host/?password=hidden
          named: amqp://user@corp:hidden@h/
        services:
          module: {value: "${file:secret}", api_key: hidden, nested: {my_password: hidden}, plain: shown}
        """
    )
    text = str(shown(load_settings()))
    assert "hidden" not in text
    assert "amqp://guest:***@rabbit/?certfile=x" in text
    assert "shown" in text


@pytest.mark.parametrize(
    ("url", "shown_url"),
    [
        ("sqlite:mqasync.db", "sqlite:mqasync.db"),
        ("amqp://user:p:a@s/s@host:1/v", "amqp://user:***@host:1/v"),
        ("amqp://user@corp:hunter2@h/", "amqp://user@corp:***@h/"),
        ("amqp://user@a@b:hunter2\n2@h/", "amqp://user@a@b:***@h/"),
        ("amqp://host/v?heartbeat=5", "amqp://host/v?heartbeat=5"),
        ("sqs://?secret_key=x&region=y", "sqs://?secret_key=***&region=y"),
    ],
)
def test_a_url_is_masked(url: str, shown_url: str) -> None:
    assert masked(url) == shown_url


def test_the_broker_option_replaces_the_default_broker_only() -> None:
    write("brokers: {first: 'sqlite:a', second: 'sqlite:b'}\nexchanges: {X: {broker: second}}")
    settings = load_settings(broker="memory:")
    assert settings.brokers == {"first": "memory:", "second": "sqlite:b"}
    assert (settings.broker_of("X"), settings.broker_of("Y")) == ("second", "first")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("brokers:\n  main: sqlite:a\nexchange: {}", "line 3: unknown key 'exchange'; valid keys: brokers, exchanges"),
        ("broker: {}", "line 1: unknown key 'broker'; valid keys: brokers, exchanges, consumers, services"),
        ("brokers: amqp://guest:s3cr3t@h/", "line 1: brokers is 'amqp://guest:***@h/'; it takes keys with values"),
        ("brokers:\n  main: 5", "line 2: brokers.main is 5; it takes text"),
        ("brokers:\n  main: rabbit://h/", "line 2: unknown URL scheme 'rabbit'; valid schemes: memory, sqlite, amqp"),
        ("brokers:\n  main: amqp://a:b/c@h/", "line 2: brokers.main cannot be read as a URL: a port is a number"),
        ("exchanges:\n  CTH: rabbit", "line 2: exchanges.CTH is 'rabbit'; it takes keys with values: broker, requires"),
        ("exchanges:\n  CTH:\n    brokr: x", "line 3: unknown key 'brokr'; valid keys: broker, requires, optional"),
        ("exchanges:\n  CTH: {broker: x}", "line 2: broker 'x' is not one of: main"),
        ("exchanges:\n  CTH: {broker: [x]}", "line 2: exchanges.CTH.broker is ['x']; it takes the name of a broker"),
        ("exchanges:\n  CTH: {requires: q}", "line 2: exchanges.CTH.requires is 'q'; it takes a list of ids: [one"),
        ("exchanges:\n  CTH: {optional: maybe}", "line 2: exchanges.CTH.optional is 'maybe'; it takes true or false"),
        ("exchanges:\n  CTH: {options: 5}", "line 2: exchanges.CTH.options is 5; it takes keys with values"),
        ("exchanges:\n  C/H: {}", "line 2: 'C/H' cannot be an exchange: it takes 1 to 80 of the characters"),
        ("consumers:\n  CTH: {}", "line 2: 'CTH' is not of the form exchange/id"),
        ("consumers:\n  CTH/q.1: {}", "line 2: 'q.1' cannot be an id: an id has no dot"),
        ("consumers:\n  CTH/q: 5", "line 2: consumers.CTH/q is 5; it takes keys with values: to, concurrency"),
        (
            "consumers:\n  CTH/q:\n    retires: 1",
            "line 3: unknown key 'retires'; valid keys: to, concurrency",
        ),
        ("consumers:\n  CTH/q: {retries: -1}", "line 2: retries is -1; it takes a whole number of at least 0"),
        ("consumers:\n  CTH/q: {timeout: soon}", "line 2: 'soon' is not a duration: write seconds, or a number"),
        ("services:\n  good: 5", "line 2: services.good is 5; it takes keys with values"),
        ("services: {}\nservices: {}", "line 2: 'services' is already in line 1"),
        ("services:\n  good: {a: ${A:1}}", "line 2: this is not YAML: expected ',' or '}', but got '{'; inside { }"),
        ("- a", "line 1: the file is ['a']; it takes keys with values: brokers, exchanges, consumers, services"),
        ("services:\n  good: {a: '${NOWHERE}'}", "line 2: the environment variable NOWHERE is not set; set it"),
        ("brokers:\n  main: amqp://a:${file:no/pass}@h/", "line 2: ${file:no/pass} cannot be read: No such file or"),
        ("brokers:\n  main: amqp://a:${file:}@h/", "line 2: ${file:} cannot be read: Is a directory"),
        ("dedup: 1h", "line 1: dedup is '1h'; it takes a URL: redis://... or rediss://..."),
        ("brokers:\n\ndedup: http://u:s3cr3t@h/", "line 3: dedup is 'http://u:***@h/'; it takes a URL: redis://"),
        ("dedup: [redis]", "line 1: dedup is ['redis']; it takes text"),
        ("dedup: redis://u:s3/cr3t@h/", "line 1: dedup cannot be read as a URL: a port is a number"),
        ("consumers: {CTH/q: {dedup: 0}}", "line 1: dedup is 0; it takes a duration of more than 0, such as 1h"),
        ("consumers: {CTH/q: {dedup: -1}}", "line 1: -1 is not a duration"),
        ("consumers: {CTH/q: {dedup: yes}}", "line 1: True is not a duration"),
        ("exchanges:\n  CTH: {requires: [a.b]}", "line 2: 'a.b' cannot be an id"),
        ("consumers:\n  CTH/q:\n    retries: many", "line 3: retries is 'many'"),
        ("brokers: [1]", "line 1: brokers is [1]; it takes keys with values"),
        ("a: [", "line 1: this is not YAML"),
        ("\x00", "cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_line_its_key_and_the_choices(text: str, problem: str) -> None:
    write(text)
    with pytest.raises(ConfigurationError, match=rf"^config\.yml(, | ){re.escape(problem)}") as caught:
        load_settings()
    assert "\n" not in str(caught.value) and "s3cr3t" not in str(caught.value)


def test_a_named_file_has_to_be_a_file_of_text_and_an_empty_one_is_fine() -> None:
    Path("latin1.yml").write_bytes("services: {ö: {}}".encode("latin-1"))
    for path, problem in (
        (".", ". cannot be read: Is a directory"),
        ("latin1.yml", "latin1.yml cannot be read: it is not UTF-8 (invalid start byte at byte 11)"),
        ("missing.yml", "missing.yml cannot be read: No such file or directory"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            load_settings(path)
        assert str(caught.value) == problem
    write("")
    assert load_settings().brokers == {"main": "sqlite:mqasync.db"}
