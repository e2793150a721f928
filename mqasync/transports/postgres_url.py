"""A PostgreSQL URL taken apart and checked; nothing is opened here."""

from __future__ import annotations

import math
import re
import ssl
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import ConfigurationError
from .common import tls
from .leased import LEASE_SECONDS

SSL_MODES = ("verify-full", "off")
KEYS = ("schema", "lease", "connections", "sslmode", *tls.FILES)
# as PostgreSQL takes it without folding, and short enough for the name of a channel
SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
MOST_CONNECTIONS = 100
DEFAULT_PORT = 5432


class Address:
    """What a URL says. Raises ConfigurationError for what it cannot say."""

    def __init__(self, url: str) -> None:
        """Check `url`."""
        rule = "a PostgreSQL URL names one host: postgresql://user:password@host:port/database"
        try:
            parts = urlsplit(url)
            port = parts.port or DEFAULT_PORT
        except ValueError as error:
            raise ConfigurationError(f"{rule}; a port is a number up to 65535") from error
        if not parts.hostname:
            raise ConfigurationError(rule)
        self._given = dict(parse_qsl(parts.query, keep_blank_values=True))
        for key in self._given:
            if key not in KEYS:
                raise ConfigurationError(f"{key!r} cannot be set in a PostgreSQL URL; there are: {', '.join(KEYS)}")
        self.schema = self._given.get("schema", "mqasync")
        if not SCHEMA.fullmatch(self.schema):
            rule = "it takes 1 to 63 of the characters a-z 0-9 _, no digit first and no 'pg_'"
            raise ConfigurationError(f"schema is {self.schema!r}; {rule}")
        self.lease = self._seconds("lease", LEASE_SECONDS)
        self.connections = self._connections()
        self.encrypted = self._encrypted()
        self.arguments: dict[str, Any] = {
            "host": parts.hostname,
            "port": port,
            "user": unquote(parts.username or "") or None,
            "password": unquote(parts.password or "") or None,
            "database": unquote(parts.path[1:]) or None,
        }
        self.name = f"{parts.hostname}:{port}"

    def _seconds(self, key: str, default: float) -> float:
        value = self._given.get(key, str(default))
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise ConfigurationError(f"{key} is {value!r}, which is not a number of seconds above 0")
        return seconds

    def _connections(self) -> int:
        value = self._given.get("connections", "4")
        if not value.isdecimal() or not 2 <= int(value) <= MOST_CONNECTIONS:
            rule = f"it takes a number from 2 to {MOST_CONNECTIONS}"
            raise ConfigurationError(f"connections is {value!r}; {rule}")
        return int(value)

    def _encrypted(self) -> bool:
        mode = self._given.get("sslmode", SSL_MODES[0])
        if mode not in SSL_MODES:
            raise ConfigurationError(f"sslmode is {mode!r}; there are: {', '.join(SSL_MODES)}")
        encrypted = mode != "off"
        tls.check(self._given, encrypted, "sslmode=verify-full", "sslmode=off")
        return encrypted

    def context(self) -> ssl.SSLContext | bool:
        """What asyncpg takes as `ssl`. Raises ConfigurationError for a file that cannot be used."""
        return tls.context(self._given) if self.encrypted else False
