"""config.yml and the environment to checked Settings; nothing is opened, nothing is kept globally."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from .errors import ConfigurationError
from .handler import ConsumerOptions, options
from .transport import check_name

DEFAULT_URL = "${MQASYNC_BROKER:sqlite:mqasync.db}"
VARIABLE = re.compile(r"\$\{(file:)?([^}:]+)(?::([^}]*))?\}")

T = TypeVar("T", bound=msgspec.Struct)
Keys = tuple[str, ...]


class ExchangeSettings(msgspec.Struct, frozen=True):
    """How one exchange is carried.

    `broker` is the name of the broker that carries it. `requires`: ids whose queues are declared
    at start. `optional`: nobody listening is fine. `options`: native to the broker.
    """

    broker: str | None = None
    requires: list[str] = []
    optional: bool = False
    options: dict[str, Any] = {}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration, variables filled in.

    `brokers`: URLs by name. `consumers`: options by "exchange/id". `services`: what lifespan()
    gets, by module. `secrets`: values that came from ${file:...}, to be masked in all output.
    """

    brokers: dict[str, str]
    exchanges: dict[str, ExchangeSettings] = {}
    consumers: dict[str, dict[str, Any]] = {}
    services: dict[str, dict[str, Any]] = {}
    secrets: set[str] = set()

    def broker_of(self, exchange: str) -> str:
        """The name of the broker that carries `exchange`."""
        settings = self.exchanges.get(exchange)
        return settings.broker if settings and settings.broker else default_broker(self.brokers)

    def consumer_options(self, exchange: str, id: str, base: ConsumerOptions) -> ConsumerOptions:
        """`base`, what the decorator says, overridden by `consumers:` in config.yml."""
        return options(self.consumers.get(f"{exchange}/{id}", {}), base)


class _File(msgspec.Struct):
    """The sections of config.yml before their values are checked."""

    brokers: dict[str, str] | None = None
    exchanges: dict[str, Any] | None = None
    consumers: dict[str, dict[str, Any] | None] | None = None
    services: dict[str, dict[str, Any] | None] | None = None


def default_broker(brokers: dict[str, str]) -> str:
    """The broker of exchanges that name none: `main`, else the first."""
    return "main" if "main" in brokers else next(iter(brokers))


def load_settings(path: str | None = None, broker: str | None = None) -> Settings:
    """Read `path`, or $MQASYNC_CONFIG, or config.yml here if there is one; `broker` replaces the default's URL.

    Raises ConfigurationError: one sentence with file, line, key and the valid choices.
    """
    import yaml

    path = path or os.environ.get("MQASYNC_CONFIG")
    file = Path(path or "config.yml")
    try:
        text = file.read_text(encoding="utf-8") if path or file.exists() else ""
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    try:
        return _settings(data, broker)
    except ConfigurationError as error:
        lines = dict(_lines(tree))
        line = next((lines[error.keys[:n]] for n in range(len(error.keys), 0, -1) if error.keys[:n] in lines), 1)
        raise ConfigurationError(f"{file}, line {line}: {error}" if text else str(error)) from None


def _settings(data: Any, broker: str | None) -> Settings:
    if broker and isinstance(data, dict) and isinstance(brokers := data.setdefault("brokers", {}) or {}, dict):
        data["brokers"] = brokers | {default_broker(brokers) if brokers else "main": broker}
    secrets: set[str] = set()
    file = _struct(_File, _fill(data, (), secrets))
    exchanges = {
        name: _struct(ExchangeSettings, value, "exchanges", name) for name, value in (file.exchanges or {}).items()
    }
    settings = Settings(
        brokers=file.brokers or {"main": _fill(DEFAULT_URL, ("brokers", "main"), secrets)},
        exchanges=exchanges,
        consumers={name: value or {} for name, value in (file.consumers or {}).items()},
        services={name: value or {} for name, value in (file.services or {}).items()},
        secrets=secrets,
    )
    for name, exchange in exchanges.items():
        if exchange.broker and exchange.broker not in settings.brokers:
            choices = ", ".join(settings.brokers)
            raise ConfigurationError(
                f"broker {exchange.broker!r} is not one of: {choices}", "exchanges", name, "broker"
            )
        for id in exchange.requires:
            _at(check_name, "id", id, keys=("exchanges", name, "requires"))
        _at(check_name, "exchange", name, keys=("exchanges", name))
    for queue, given in settings.consumers.items():
        if queue.count("/") != 1:
            raise ConfigurationError(f"{queue!r} is not of the form exchange/id", "consumers", queue)
        for option, value in given.items():
            _check_key(option, ConsumerOptions.__struct_fields__, ("consumers", queue, option))
            _at(options, {option: value}, keys=("consumers", queue, option))
    return settings


def _struct(kind: type[T], data: Any, *keys: str) -> T:
    """`data` as a `kind`, every key and value checked; `keys` is where it stands in the file."""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    if not isinstance(data, dict | None):
        raise ConfigurationError(f"expected a mapping with {', '.join(fields)} here", *keys)
    values = {}
    for key, value in (data or {}).items():
        _check_key(key, tuple(fields), (*keys, key))
        try:
            values[key] = msgspec.convert(value, fields[key])
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{'.'.join((*keys, key))}: {error}", *keys, key) from error
    return kind(**values)


def _check_key(key: str, valid: Keys, keys: Keys) -> None:
    if key not in valid:
        raise ConfigurationError(f"unknown key {key!r}; there are: {', '.join(valid)}", *keys)


def _at(check: Any, *values: Any, keys: Keys) -> None:
    """Call `check`; what it has to say is said of the place `keys`."""
    try:
        check(*values)
    except ConfigurationError as error:
        raise ConfigurationError(str(error), *keys) from error


def _fill(value: Any, keys: Keys, secrets: set[str]) -> Any:
    """`value` with every ${...} in it filled in, through mappings and lists."""
    if isinstance(value, dict):
        return {str(key): _fill(item, (*keys, str(key)), secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, keys, secrets) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def fill(match: re.Match[str]) -> str:
        text = _variable(match, keys, secrets)
        before, after = value[: match.start()], value[match.end() :]
        in_password = keys[:1] == ("brokers",) and before.endswith(":") and after.startswith("@")
        return quote(text, safe="") if in_password else text  # a password may hold / and @

    filled = VARIABLE.sub(fill, value)
    if VARIABLE.fullmatch(value) and keys[:1] != ("brokers",):
        import yaml

        return yaml.safe_load(filled)  # ${RETRIES:5} is the number 5
    return filled


def _variable(match: re.Match[str], keys: Keys, secrets: set[str]) -> str:
    """The text that ${NAME}, ${NAME:default} or ${file:/path} stands for."""
    is_file, name, default = match.groups()
    if is_file:
        try:
            secret = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{match[0]} cannot be read: {error}", *keys) from error
        secrets.add(secret)
        return secret
    text = os.environ.get(name, default)
    if text is None:
        raise ConfigurationError(
            f"the environment variable {name} is not set; set it or write ${{{name}:default}}", *keys
        )
    return text


def _lines(node: Any, keys: Keys = ()) -> Iterator[tuple[Keys, int]]:
    """Where each key stands in the file, counted from 1."""
    for key, value in getattr(node, "value", ()) if getattr(node, "id", "") == "mapping" else ():
        path = (*keys, str(key.value))
        yield path, key.start_mark.line + 1
        yield from _lines(value, path)
