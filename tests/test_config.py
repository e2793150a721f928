"""config.yml: what is filled in, what is refused and where, what is shown."""

from pathlib import Path

import pytest

from mqasync import ConfigurationError
from mqasync.config import load_settings
from mqasync.handler import ConsumerOptions
from mqasync.masking import masked, shown


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
    options = settings.consumer_options("CTH", "enrich", ConsumerOptions(backoff=3.0))
    assert options == ConsumerOptions(concurrency=50, retries=8, to=("enriched",), timeout=600.0, backoff=3.0)
    name = "from the environment"
    assert settings.services == {"some.module": {"name": name, "list": [f"{name}!"], "token": "a/b@c"}}


def test_no_secret_is_shown() -> None:
    Path("secret").write_text("hidden")
    write(
        """
        brokers:
          main: amqp://guest:${file:secret}@rabbit/?certfile=x
          other: redis://:hidden@host/?password=hidden
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
        ("brokers:\n  main: sqlite:a\nexchange: {}", r"line 3: unknown key 'exchange'; there are: brokers, exchanges"),
        ("exchanges:\n  CTH: {brokr: x}", r"line 2: unknown key 'brokr'; there are: broker, requires, optional"),
        ("exchanges:\n  CTH:\n    broker: rabit", r"line 3: broker 'rabit' is not one of: main"),
        (
            "exchanges:\n  CTH:\n    optional: maybe",
            r"line 3: exchanges.CTH.optional is 'maybe'; it takes true or false",
        ),
        ("exchanges:\n  C/H: {}", r"line 2: 'C/H' cannot be an exchange"),
        ("exchanges:\n  CTH: {requires: [a.b]}", r"line 2: 'a.b' cannot be an id"),
        ("consumers:\n  CTH/q:\n    retires: 1", r"line 3: unknown key 'retires'; there are: to, concurrency"),
        ("consumers:\n  CTH/q:\n    retries: many", r"line 3: retries is 'many'"),
        ("consumers:\n  CTH/q:\n    timeout: soon", r"line 3: 'soon' is not a duration"),
        ("consumers:\n  CTH: {}", r"line 2: 'CTH' is not of the form exchange/id"),
        ("brokers:\n  main: ${NOWHERE}", r"line 2: the environment variable NOWHERE is not set"),
        ("brokers:\n  main: a:${file:nowhere}@b", r"line 2: \$\{file:nowhere\} cannot be read"),
        ("brokers: [1]", r"line 1: brokers is \[1\]; it takes keys with values"),
        ("- a", r"line 1: the file is \['a'\]; it takes keys with values: brokers"),
        ("a: [", r"config.yml, line 1: this is not YAML"),
        ("\x00", r"config.yml cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_line_its_key_and_the_choices(text: str, problem: str) -> None:
    write(text)
    with pytest.raises(ConfigurationError, match=problem) as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_a_named_file_must_exist_and_an_empty_one_is_fine() -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere.yml cannot be read"):
        load_settings("nowhere.yml")
    write("")
    assert load_settings().brokers == {"main": "sqlite:mqasync.db"}
