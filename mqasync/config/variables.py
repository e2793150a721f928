"""${NAME}, ${NAME:default} and ${file:/path} in configuration values, filled in; no key of config.yml is known here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import ConfigurationError
from ..masking import conceal

VARIABLE = re.compile(
    r"(?P<dollars>\$+)(?P<braces>\{(?:file:(?P<path>[^}]*)|(?P<name>[^}:]+)(?::(?P<default>[^}]*))?)\})"
)
OWN = "MQASYNC_"  # how our own variables begin; one that is empty counts as not set, as in a compose file

Keys = tuple[str, ...]

URLS = ("brokers", "dedup")  # below these keys every text is a URL


def fill(value: Any, keys: Keys) -> Any:
    """`value` with every variable in it filled in, through mappings and lists; what is filled in is text.

    `keys` is where it stands in config.yml. What comes from ${file:...} is concealed. $${X} stands for ${X}.
    Raises ConfigurationError for a variable that is not set or a file that cannot be read.
    """
    if isinstance(value, dict):
        return {str(key): fill(item, (*keys, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, keys) for item in value]
    if not isinstance(value, str):
        return value

    def text_of(match: re.Match[str]) -> str:
        pairs, one = divmod(len(match["dollars"]), 2)
        text = _variable(match, keys) if one else match["braces"]
        if one and keys[0] in URLS and _is_one_part(value, match.start()):
            text = quote(text, safe="")
        return "$" * pairs + text

    return VARIABLE.sub(text_of, value)


def _is_one_part(url: str, start: int) -> bool:
    """True if what stands in `url` at `start` is (part of) a user, a password or a value, which may hold / and @."""
    plain = VARIABLE.sub(lambda match: "_" * len(match[0]), url)
    user = re.match(r"[^/?#]*://([^/?#]*)@", plain)
    return bool(user and user.start(1) <= start < user.end(1)) or ("?" in plain[:start] and plain[start - 1] == "=")


def _variable(match: re.Match[str], keys: Keys) -> str:
    """The text that one variable stands for."""
    path, name, default = match.group("path", "name", "default")
    if path is not None:
        secret = re.sub(r"\r?\n\Z", "", read_text(Path(path), f"${match['braces']}", *keys))
        conceal(secret)
        return secret
    text: str | None = os.environ.get(name)
    if text is None or (not text and name.startswith(OWN)):
        text = default
    if text is None:
        raise ConfigurationError(
            f"the environment variable {name} is not set; set it or write ${{{name}:default}}", *keys
        )
    return text


def read_text(path: Path, what: str, *keys: str) -> str:
    """The text of a file. Raises ConfigurationError, which calls the file `what`."""
    try:
        return path.read_bytes().decode()  # line ends as they are
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 ({error.reason} at byte {error.start})"
    raise ConfigurationError(f"{what} cannot be read: {reason}", *keys)
