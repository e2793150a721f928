"""config.yml and the environment to checked Settings; nothing is opened, nothing is kept globally."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..errors import ConfigurationError
from ..handler import Binding, ConsumerOptions, options
from ..masking import conceal_in, hide, masked, shown
from ..transport import check_name
from ..transports import SEEN_SCHEMES, scheme_of
from .urls import check_url
from .variables import Keys, fill, read_text

C = TypeVar("C", bound=Binding)

DEFAULT_URL = "${MQASYNC_BROKER:sqlite:mqasync.db}"
SECTIONS = ("brokers", "exchanges", "consumers", "services")
TAKES = {  # in a user's words, what a value of that type looks like
    str: "text",
    str | None: "the name of a broker",
    bool: "true or false",
    list[str]: "a list of ids: [one, two]",
    dict[str, Any]: "keys with values",
    list[str | dict[str, str]]: "a list of binding keys, or of headers with their values",
}


class ExchangeSettings(msgspec.Struct, frozen=True):
    """The settings of one exchange.

    `broker`: the name of the broker that carries it, else the default one. `requires`: ids whose queues exist
    before anything is published. `optional`: it may be without consumers. `declare`: false if it exists with its
    queues: nothing of it is created or changed (docs/existing.md). `options`: options of the broker itself.
    """

    broker: str | None = None
    requires: list[str] = []
    optional: bool = False
    declare: bool = True
    options: dict[str, Any] = {}


class QueueSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """The queue that a consumer receives from; see docs/existing.md.

    `queue`: the name of an existing queue, which is consumed as it is. `bind`: binding keys of its queue, if
    the exchange has a `type`; for type headers, the headers.
    """

    queue: str | None = None
    bind: list[str | dict[str, str]] = []


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration with its variables filled in; the passwords of its URLs are concealed.

    `brokers`: URLs by name. `exchanges`: settings by name. `consumers`: options by "exchange/id".
    `queues`: what they receive from, by the same. `services`: what lifespan() gets, by module.
    `dedup`: URL of the Redis that remembers ids for consumers with `dedup`; without one their process does.
    """

    brokers: dict[str, str]
    exchanges: dict[str, ExchangeSettings] = {}
    consumers: dict[str, dict[str, Any]] = {}
    queues: dict[str, QueueSettings] = {}
    services: dict[str, dict[str, Any]] = {}
    dedup: str | None = None

    def __post_init__(self) -> None:
        for url in (*self.brokers.values(), self.dedup or ""):
            conceal_in(url)

    def __repr__(self) -> str:
        return f"Settings({shown(self)})"

    def broker_of(self, exchange: str) -> str:
        """The name of the broker that carries `exchange`."""
        settings = self.exchanges.get(exchange)
        return settings.broker if settings and settings.broker else default_broker(self.brokers)

    def makes(self, exchange: str, id: str) -> bool:
        """Whether a missing queue is created; else it must exist."""
        own, queue = self.exchanges.get(exchange), self.queues.get(f"{exchange}/{id}")
        return (own is None or own.declare) and (queue is None or queue.queue is None)

    def native(self, broker: str) -> dict[str, dict[str, Any]]:
        """What its transport is told of the exchanges that `broker` carries.

        That is their `options`; `declare` where that is false; and as `queues` what differs from ours, by id.
        """
        told: dict[str, dict[str, Any]] = {}
        for exchange, own in self.exchanges.items():
            told[exchange] = own.options | ({} if own.declare else {"declare": False})
        for name, queue in self.queues.items():
            exchange, _, id = name.partition("/")
            told.setdefault(exchange, {}).setdefault("queues", {})[id] = msgspec.to_builtins(queue)
        return {exchange: options for exchange, options in told.items() if self.broker_of(exchange) == broker}

    def consumer_options(self, exchange: str, id: str, base: ConsumerOptions) -> ConsumerOptions:
        """`base`, what the decorator says, overridden by `consumers:` in config.yml."""
        return options(self.consumers.get(f"{exchange}/{id}", {}), base)

    def configured(self, consumer: C) -> C:
        """`consumer` as it works here: with consumer_options."""
        return consumer.with_options(self.consumer_options(consumer.exchange, consumer.id, consumer.options))


def default_broker(brokers: dict[str, str]) -> str:
    """The broker of exchanges that name none: `main`, else the first."""
    return "main" if "main" in brokers else next(iter(brokers))


def load_settings(path: str | None = None, broker: str | None = None) -> Settings:
    """Read `path`, or $MQASYNC_CONFIG, or config.yml here if there is one; `broker` replaces the default's URL.

    Raises ConfigurationError: one sentence with file, line, key and the valid choices.
    """
    path = path or os.environ.get("MQASYNC_CONFIG")
    file = Path(path or "config.yml")
    text = read_text(file, str(file)) if path or file.exists() else ""
    data, lines = _parse(file, text)
    try:
        return _settings(data, broker)
    except ConfigurationError as error:
        problem = str(error)
        inmost = [error.keys[:length] for length in range(len(error.keys), 0, -1)]
        line = next((lines[keys] for keys in inmost if keys in lines), None if error.keys else 1)
        raise ConfigurationError(f"{file}, line {line}: {problem}" if line else problem) from None


def _parse(file: Path, text: str) -> tuple[Any, dict[Keys, int]]:
    """What the YAML says, and in which line each key stands, counted from 1."""
    import yaml

    lines: dict[Keys, int] = {}
    try:
        for keys, line in _lines(yaml.compose(text, Loader=yaml.SafeLoader)):
            if lines.setdefault(keys, line) != line:
                raise ConfigurationError(f"{file}, line {line}: {keys[-1]!r} is already in line {lines[keys]}")
        return yaml.safe_load(text), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        variable = any("${" in bad for bad in text.splitlines()[line : line + 1])
        hint = "; inside { } and [ ] a ${...} needs quotes" if variable else ""
        # its whole text would quote the line, which may hold a password
        raise ConfigurationError(f"{file}, line {line + 1}: this is not YAML: {error.problem}{hint}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file} cannot be read: {' '.join(str(error).split())}") from None


def _lines(node: Any, keys: Keys = ()) -> Iterator[tuple[Keys, int]]:
    for key, value in getattr(node, "value", ()) if getattr(node, "id", "") == "mapping" else ():
        path = (*keys, str(key.value))
        yield path, key.start_mark.line + 1
        yield from _lines(value, path)


def _settings(data: Any, broker: str | None) -> Settings:
    given = _mapping(data, (), (*SECTIONS, "dedup"))
    sections = {name: _mapping(given.get(name), (name,)) for name in SECTIONS}
    urls = sections["brokers"]
    if broker or not urls:
        urls[default_broker(urls) if urls else "main"] = broker or DEFAULT_URL
    brokers, exchanges, consumers, services = fill(sections, ()).values()
    dedup = fill(given.get("dedup"), ("dedup",))
    both = {name: _consumer(name, value) for name, value in consumers.items()}
    settings = Settings(
        brokers={
            name: _url(url, *(("--broker",) if url == broker else ("brokers", name))) for name, url in brokers.items()
        },
        exchanges={name: _exchange(name, value) for name, value in exchanges.items()},
        consumers={name: options for name, (options, _) in both.items()},
        queues={name: queue for name, (_, queue) in both.items() if queue != QueueSettings()},
        services={name: _mapping(value, ("services", name)) for name, value in services.items()},
        dedup=None if dedup is None else _url(dedup, "dedup", schemes=SEEN_SCHEMES),
    )
    for name, exchange in settings.exchanges.items():
        if exchange.broker and exchange.broker not in settings.brokers:
            problem = f"broker {exchange.broker!r} is not one of: {', '.join(settings.brokers)}"
            raise ConfigurationError(problem, "exchanges", name, "broker")
    return settings


def _exchange(name: str, value: Any) -> ExchangeSettings:
    keys = ("exchanges", name)
    _at(check_name, "exchange", name, keys=keys)
    kinds = {field.name: field.type for field in msgspec.structs.fields(ExchangeSettings)}
    given = _mapping(value, keys, tuple(kinds))
    exchange = ExchangeSettings(**{key: _value(kinds[key], item, *keys, key) for key, item in given.items()})
    for key, item in exchange.options.items():  # the broker has types of its own, which only it knows
        with suppress(msgspec.ValidationError):
            exchange.options[key] = msgspec.convert(item, bool | int, strict=False)
    for id in exchange.requires:
        _at(check_name, "id", id, keys=(*keys, "requires"))
    return exchange


def _consumer(name: str, value: Any) -> tuple[dict[str, Any], QueueSettings]:
    """What overrides the decorator, and what it receives from."""
    keys = ("consumers", name)
    if name.count("/") != 1:
        raise ConfigurationError(f"{name!r} is not of the form exchange/id", *keys)
    for kind, part in zip(("exchange", "id"), name.split("/"), strict=True):
        _at(check_name, kind, part, keys=keys)
    kinds = {field.name: field.type for field in msgspec.structs.fields(QueueSettings)}
    given = dict(_mapping(value, keys, (*ConsumerOptions.__struct_fields__, *kinds)))
    queue = QueueSettings(**{key: _value(kinds[key], given.pop(key), *keys, key) for key in kinds if key in given})
    for option, item in given.items():
        _at(options, {option: item}, keys=(*keys, option))
    return given, queue


def _at(check: Callable[..., object], *values: Any, keys: Keys) -> None:
    """Call `check`; what it has to say is said of the place `keys`."""
    try:
        check(*values)
    except ConfigurationError as error:
        raise ConfigurationError(str(error), *keys) from error


def _url(value: Any, *keys: str, schemes: Collection[str] = ()) -> str:
    url = check_url(_value(str, value, *keys), keys, schemes)
    _at(scheme_of, url, keys=keys)
    return url


def _mapping(value: Any, keys: Keys, valid: Keys = ()) -> dict[Any, Any]:
    """`value`, which must be a mapping or nothing, its keys among `valid` where there are any."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(value, "keys with values" + (f": {', '.join(valid)}" if valid else ""), keys)
    for key in value:
        if valid and key not in valid:
            raise ConfigurationError(f"unknown key {key!r}; valid keys: {', '.join(valid)}", *keys, str(key))
    return value


def _value(kind: Any, value: Any, *keys: str) -> Any:
    """`value`, which must be of that type."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        raise _wrong(value, TAKES[kind], keys) from None


def _wrong(value: Any, takes: str, keys: Keys) -> ConfigurationError:
    what = ".".join(keys) or "the file"
    return ConfigurationError(f"{what} is {hide(masked(repr(value))):.60}; it takes {takes}", *keys)
