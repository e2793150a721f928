"""Parses and checks a broker's URL: hosts, user, path, settings, files for TLS; nothing is connected here.

No error and no repr shows more of a URL than the offending part: it may hold a password.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import BrokerRefused, ConfigurationError
from ...transport import Options
from . import tls


class Key(NamedTuple):
    """One setting of a URL or an exchange: its type is that of the default; numbers have limits, text has choices."""

    default: str | int | float | bool
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()


class Address(NamedTuple):
    """A parsed URL. `settings` has every key that the transport declared, with its default unless the URL sets it."""

    hosts: list[tuple[str, int]]
    user: str
    password: str
    path: str
    settings: dict[str, Any]
    encrypted: bool
    files: dict[str, str]

    def __repr__(self) -> str:
        return f"<{self.hosts[0][0]}:{self.hosts[0][1]}>"

    def ssl_context(self) -> ssl.SSLContext | None:
        """The context that verifies the broker; None without TLS. Raises ConfigurationError for unusable files."""
        return tls.context(self.files) if self.encrypted else None


def parse(url: str, *, form: str, port: int, keys: Mapping[str, Key], secure: str = "") -> Address:
    """Parse `url`. `form` shows what one looks like, `secure` is the scheme with TLS, if there is one.

    Raises ConfigurationError.
    """
    scheme, _, rest = url.partition("://")
    where, _, path = rest.partition("?")[0].partition("/")
    user, _, hosts = where.rpartition("@")
    name, _, password = user.partition(":")
    a = f"an {scheme}" if scheme[:1] in ("a", "e", "i", "o") else f"a {scheme}"
    try:
        addresses = [_host(host, port) for host in hosts.split(",")]
    except ValueError:
        raise ConfigurationError(f"{a} URL looks like {form}; a port is a number up to 65535") from None
    if not all(host for host, _ in addresses):
        raise ConfigurationError(f"{a} URL must name a host: {form}")
    encrypted, settings, files = scheme == secure, {key: declared.default for key, declared in keys.items()}, {}
    for key, text in parse_qsl(rest.partition("?")[2], keep_blank_values=True):
        if secure and key in tls.FILES:
            files[key] = text
        elif key in keys:
            settings[key] = value(key, text, keys[key])
        else:
            valid = ", ".join([*keys, *(tls.FILES if secure else ())]) or "none"
            raise ConfigurationError(f"{key!r} cannot be set in {a} URL; valid keys: {valid}")
    tls.check(files, encrypted, f"{secure}://", f"{a}:// URL")
    return Address(addresses, unquote(name), unquote(password), unquote(path), settings, encrypted, files)


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or port


def value(name: str, given: Any, key: Key) -> Any:
    """`given`, from a URL or YAML, converted to the type of the key's default. Raises ConfigurationError."""
    kind = type(key.default)
    if kind is str and isinstance(given, str | int | float) and (not key.choices or given in key.choices):
        return str(given)
    if kind is bool and str(given).lower() in ("true", "false"):
        return str(given).lower() == "true"
    if kind in (int, float) and not isinstance(given, bool):
        try:
            number = kind(given)
        except (ValueError, TypeError):
            number = math.nan
        if key.least <= number <= key.most and math.isfinite(number):
            return number
    takes = " or ".join(key.choices) or {str: "text", bool: "true or false"}.get(kind) or _range(key)
    raise ConfigurationError(f"{name} is {given!r}; it takes {takes}", name)


def _range(key: Key) -> str:
    least, most = (f"{bound:,g}" if math.isfinite(bound) else "" for bound in (key.least, key.most))
    bounds = f"from {least} to {most}" if least and most else f"of at least {least}" if least else f"up to {most}"
    return f"a {'whole ' if isinstance(key.default, int) else ''}number {bounds}"


def check_same(what: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise BrokerRefused if something exists already with other settings than `wanted`."""
    for name, value in wanted.items():
        if found.get(name) != value:
            raise BrokerRefused(f"{what} exists with {name} {found.get(name)!r} instead of {value!r}")


def check_options(
    options: Options, keys: Mapping[str, Key], broker: str, existing: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """The broker's own options of each exchange in config.yml, checked. Raises ConfigurationError.

    `existing`: which of declare, queue and bind the broker supports; `queues` stays as it is.
    """
    checked: dict[str, dict[str, Any]] = {}
    for exchange, given in options.items():
        queues = given.get("queues", {})
        own = {(f"consumers.{exchange}/{id}", name): name for id, queue in queues.items() for name in queue}
        own |= {(f"exchanges.{exchange}", "declare"): "declare"} if "declare" in given else {}
        for place, name in own.items():
            if name not in existing:
                takes = f"valid options: {', '.join(existing)}" if existing else "it cannot use existing queues"
                raise ConfigurationError(f"{broker} has no {name!r}; {takes}", *place)
        at = ("exchanges", exchange, "options")
        checked[exchange] = {"queues": queues} if queues else {}
        for name, item in given.items():
            if name in ("queues", "declare"):
                continue
            if name not in keys:
                valid = f"valid options: {', '.join(keys)}" if keys else f"{broker} has none"
                raise ConfigurationError(f"unknown option {name!r}; {valid}", *at, name)
            try:
                checked[exchange][name] = value(name, item, keys[name])
            except ConfigurationError as error:
                raise ConfigurationError(str(error), *at, name) from None
    return checked


def existing(options: Options, exchange: str, id: str) -> str:
    """The existing `queue` that config.yml names for a consumer; empty if it does not."""
    found: str = options.get(exchange, {}).get("queues", {}).get(id, {}).get("queue", "")
    return found


def missing(what: str) -> BrokerRefused:
    """The error to raise if something that must exist does not."""
    return BrokerRefused(f"there is no {what}, and config.yml says that mqasync must not create it")
