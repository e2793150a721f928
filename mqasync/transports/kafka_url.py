"""A Kafka URL and the options of exchanges, checked and in aiokafka's words; nothing is connected here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from ..errors import ConfigurationError
from ..transport import Options
from .common import tls

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
URL_KEYS = ("session", "mechanism", *tls.FILES)
PARTITIONS = 8  # no more consumers than that can share a queue
EXAMPLE = "kafka://user:password@host:port,host:port"


class Settings(msgspec.Struct, frozen=True):
    """What a URL says; its repr would tell the password, so it has none."""

    servers: list[str]
    session: float  # seconds
    tls: dict[str, str] | None  # the files of tls
    user: str
    password: str
    mechanism: str

    def __repr__(self) -> str:
        return f"Settings(servers={self.servers!r})"

    def connection(self) -> dict[str, Any]:
        """Arguments that every client of aiokafka takes. Raises ConfigurationError for unusable files."""
        protocol = ("SASL_" if self.user else "") + ("PLAINTEXT" if self.tls is None else "SSL")
        return {
            "bootstrap_servers": self.servers,
            "client_id": "mqasync",
            "security_protocol": protocol,
            "ssl_context": None if self.tls is None else tls.context(self.tls),
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.user or None,
            "sasl_plain_password": self.password or None,
        }


def parse(url: str) -> Settings:
    """Raises ConfigurationError that names what is wrong, never the password."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for key in query:
        if key not in URL_KEYS:
            raise ConfigurationError(f"{key!r} cannot be set in a Kafka URL; there are: {', '.join(URL_KEYS)}")
    if parts.path not in ("", "/"):
        raise ConfigurationError(f"a Kafka URL has no path, such as {parts.path!r}: {EXAMPLE}")
    given, _, hosts = parts.netloc.rpartition("@")
    user, _, password = given.partition(":")
    mechanism = query.get("mechanism", "PLAIN")
    if mechanism not in MECHANISMS:
        raise ConfigurationError(f"mechanism is {mechanism!r}; there are: {', '.join(MECHANISMS)}")
    if bool(user) != bool(password):
        raise ConfigurationError(f"a user has a password, and a password a user: {EXAMPLE}")
    if "mechanism" in query and not user:
        raise ConfigurationError(f"mechanism is for a user and password: {EXAMPLE}")
    files = {key: query[key] for key in tls.FILES if key in query}
    tls.check(files, parts.scheme == "kafkas", "kafkas://", "a kafka:// URL")
    return Settings(
        servers=[_server(host) for host in hosts.split(",")],
        session=_session(query.get("session", "10")),
        tls=files if parts.scheme == "kafkas" else None,
        user=unquote(user),
        password=unquote(password),
        mechanism=mechanism,
    )


def _server(host: str) -> str:
    matched = re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?", host)
    if not matched or int(matched[2] or 1) not in range(1, 65536):
        raise ConfigurationError(f"{host!r} is not host:port; a Kafka URL names at least one: {EXAMPLE}")
    return f"{matched[1]}:{matched[2] or 9092}"


def _session(value: str) -> float:
    if not re.fullmatch(r"\d{1,4}(\.\d+)?", value) or not 1 <= float(value) <= 1800:
        raise ConfigurationError(f"session is {value!r}; it takes a number of seconds from 1 to 1800")
    return float(value)


def check_options(options: Options) -> None:
    """Raises ConfigurationError with the option's place in config.yml."""
    for exchange, given in options.items():
        for name, value in given.items():
            if problem := _problem(name, value):
                raise ConfigurationError(problem, "exchanges", exchange, "options", name)


def _problem(name: str, value: Any) -> str:
    if name in ("partitions", "replication"):
        most = 10_000 if name == "partitions" else 100
        if type(value) is not int or not 1 <= value <= most:
            return f"{name} is {value!r}; it takes a whole number from 1 to {most}"
    elif not re.fullmatch(r"[a-z]+(\.[a-z]+)+", name):
        return f"{name!r} is no option: there are partitions, replication and Kafka's topic configs (retention.ms)"
    elif not isinstance(value, str | int | float):
        return f"{name} is {value!r}; a topic config is a text or a number"
    return ""


def topic_configs(options: Mapping[str, Any]) -> dict[str, str]:
    """The topic configs among the options of one exchange, as Kafka wants them."""
    configs = {name: value for name, value in options.items() if name not in ("partitions", "replication")}
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in configs.items()}
