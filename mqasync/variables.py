"""${NAME}, ${NAME:default} and ${file:/path} in configuration values, filled in; no key of config.yml is known here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .errors import ConfigurationError

VARIABLE = re.compile(r"\$\{(?:file:([^}]*)|([^}:]+)(?::([^}]*))?)\}")

Keys = tuple[str, ...]

URLS = ("brokers", "dedup")  # below these keys every text is a URL


def fill(value: Any, keys: Keys, secrets: set[str]) -> Any:
    """`value` with every variable in it filled in, through mappings and lists.

    `keys` is where it stands in config.yml. What comes from ${file:...} is added to `secrets`.
    Raises ConfigurationError for a variable that is not set or a file that cannot be read.
    """
    if isinstance(value, dict):
        return {str(key): fill(item, (*keys, str(key)), secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, keys, secrets) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def text_of(match: re.Match[str]) -> str:
        text = _variable(match, keys, secrets)
        before, after = value[: match.start()], value[match.end() :]
        in_password = keys[0] in URLS and before.endswith(":") and after.startswith("@")
        return quote(text, safe="") if in_password else text  # a password may hold / and @

    filled = VARIABLE.sub(text_of, value)
    if VARIABLE.fullmatch(value) and keys[0] not in URLS:
        import yaml

        return yaml.safe_load(filled)  # ${RETRIES:5} is the number 5
    return filled


def _variable(match: re.Match[str], keys: Keys, secrets: set[str]) -> str:
    """The text that one variable stands for."""
    path, name, default = match.groups()
    if path is not None:
        secret = read_text(Path(path), match[0], *keys).strip()
        secrets.add(secret)
        return secret
    text: str | None = os.environ.get(name, default)
    if text is None:
        raise ConfigurationError(
            f"the environment variable {name} is not set; set it or write ${{{name}:default}}", *keys
        )
    return text


def read_text(path: Path, what: str, *keys: str) -> str:
    """The text of a file. Raises ConfigurationError, which calls the file `what`."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 ({error.reason} at byte {error.start})"
    raise ConfigurationError(f"{what} cannot be read: {reason}", *keys)
