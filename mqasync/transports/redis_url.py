"""A redis:// URL taken apart and checked; nothing is connected or read here."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import ConfigurationError
from .common import tls

PORT = 6379
LEASE_SECONDS = 30.0
KEYS = ("lease", *tls.FILES)
FORM = "redis://user:password@host:port/database"


class Address:
    """Where a Redis is, who we are there, and for how long a delivery is ours. Raises ConfigurationError."""

    def __init__(self, url: str) -> None:
        """`url` may hold a password: no error and no repr shows more of it than the offending part."""
        try:
            parts = urlsplit(url, allow_fragments=False)
            port = parts.port or PORT
        except ValueError as error:
            raise ConfigurationError(f"a Redis URL reads {FORM}; a port is a number up to 65535") from error
        if not parts.hostname:
            raise ConfigurationError(f"a Redis URL names a host: {FORM}")
        database = parts.path.removeprefix("/") or "0"
        if not (database.isascii() and database.isdecimal()):
            raise ConfigurationError(f"{database!r} is not a database of Redis: they are numbered from 0")
        self.encrypted = parts.scheme == "rediss"
        self.files = self._query(parts.query)
        self.connection: dict[str, Any] = {"host": parts.hostname, "port": port, "db": int(database)}
        if parts.username:
            self.connection["username"] = unquote(parts.username)
        if parts.password:
            self.connection["password"] = unquote(parts.password)

    def _query(self, query: str) -> dict[str, str]:
        """Take the lease out of the query; what is left are the files of TLS."""
        settings = dict(parse_qsl(query, keep_blank_values=True))
        for key in settings:
            if key not in KEYS:
                raise ConfigurationError(f"{key!r} cannot be set in a Redis URL; there are: {', '.join(KEYS)}")
        self.lease = _seconds(settings.pop("lease", str(LEASE_SECONDS)))
        tls.check(settings, self.encrypted, "rediss://", "a redis:// URL")
        return settings


def _seconds(lease: str) -> float:
    try:
        seconds = float(lease)
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds < math.inf:
        raise ConfigurationError(f"lease={lease!r} in a Redis URL is not a number of seconds of at least 0.1")
    return seconds
