"""URLs as people write them into config.yml, checked; nothing is opened, no scheme's own options are known here."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from urllib.parse import urlsplit

from ..errors import ConfigurationError
from ..masking import masked


def check_url(url: str, keys: tuple[str, ...], schemes: Collection[str] = ()) -> str:
    """`url`, whole, with one of the `schemes` where there are any; `keys` is where it stands in config.yml.

    What a / in its password breaks off would be taken for a path, and shown: ConfigurationError.
    """
    what = ".".join(keys)
    if not _whole(url):
        rule = "a port is a number up to 65535; in a password write / ? # @ as %2F %3F %23 %40"
        raise ConfigurationError(f"{what} cannot be read as a URL: {rule}", *keys)
    if schemes and url.partition("://")[0] not in schemes:
        choices = " or ".join(f"{scheme}://..." for scheme in schemes)
        raise ConfigurationError(f"{what} is {masked(url)!r}; it takes a URL: {choices}", *keys)
    return url


def _whole(url: str) -> bool:
    """True if it reads as a URL that has no @ behind its hosts, which are several for Kafka."""
    with suppress(ValueError):
        parts = urlsplit(url)
        for host in parts.netloc.rpartition("@")[2].split(","):
            _ = urlsplit(f"//{host}").port
        rest = parts.path + parts.query + parts.fragment
        return not parts.netloc or "@" not in rest
    return False


def each_host(url: str) -> list[str]:
    """`url` once for each of its hosts, which stand with commas between them: scheme://user@one,two:5673/path."""
    scheme, slashes, rest = url.partition("://")
    where = re.split("[/?]", rest, maxsplit=1)[0]
    user, at, hosts = where.rpartition("@")
    path = rest[len(where) :]
    return [f"{scheme}{slashes}{user}{at}{host}{path}" for host in hosts.split(",")] if slashes else [url]
