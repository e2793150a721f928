"""Masks secrets in texts that people see; which texts those are is decided elsewhere."""

import json
import logging
import re
import traceback
from functools import reduce
from typing import Any
from urllib.parse import unquote, unquote_plus

import msgspec

MASK = "***"
LEAST = 4  # characters of a secret that is masked in every text; a shorter one is part of too many words
SECRET_KEY = re.compile(r"pass|secret|token|credential|api_?key", re.IGNORECASE)
# what stands before a secret in a URL, and the secret; a password that was not quoted may hold / and @
IN_URL = (
    re.compile(r"(?P<before>://(?P<user>[^:]*):)(?P<secret>.*)(?=@)", re.DOTALL),
    re.compile(
        r"(?P<before>[?&](?!(?:key|token)file=)[^=&]*(?:pass|secret|token|key)[^=&]*=)(?P<secret>[^&]*)", re.IGNORECASE
    ),
)


class Concealed(msgspec.Struct):
    """The secrets of this process, and the pattern that finds them in texts."""

    secrets: set[str] = set()
    pattern: re.Pattern[str] = re.compile("(?!)")  # nothing


_concealed = Concealed()


def conceal(secret: str) -> None:
    """From now on `hide` masks `secret` and each line of it, and so do the log and every error of mqasync."""
    if secret in _concealed.secrets:
        return
    _concealed.secrets.add(secret)
    logging.getLogger("mqasync").addFilter(_hide_in)
    texts = {part.strip() for known in _concealed.secrets for part in (known, *known.splitlines())}
    parts = sorted((text for text in texts if len(text) >= LEAST), key=len, reverse=True)
    _concealed.pattern = re.compile("|".join("".join(map(_spelled, part)) for part in parts) or "(?!)")


def conceal_in(url: str) -> None:
    """Conceal the password and other secrets of a URL, except a password equal to the user name, which is shown."""
    for known in IN_URL:
        for found in known.finditer(url):
            if found["secret"] != found.groupdict().get("user"):
                for spelled in (str, unquote, unquote_plus):
                    conceal(spelled(found["secret"]))


def _spelled(character: str) -> str:
    """A pattern for all the ways in which texts, URLs, JSON and reprs of reprs write `character`."""
    if character.isascii() and character.isalnum():
        return character
    octets = character.encode("utf-8", "surrogatepass")
    in_url = "".join(f"%{octet:02x}" for octet in octets) + (r"|\+" if character == " " else "")
    escaped = {character.encode("unicode_escape").decode(), json.dumps(character)[1:-1], repr(octets)[2:-1]}
    escaped |= {f"\\{character}"}
    spellings = [re.escape(text).replace(r"\\", r"\\+") for text in sorted(escaped, key=len, reverse=True)]
    return f"(?:{'|'.join(spellings)}|{re.escape(character)}|(?i:{in_url}))"


def hide(text: str) -> str:
    """`text` with all concealed secrets masked."""
    return _concealed.pattern.sub(MASK, text)


def _hide_in(record: logging.LogRecord) -> bool:
    """A logging filter that lets every record pass, with its secrets masked for every formatter."""
    record.msg, record.args = hide(record.getMessage()), ()
    if record.exc_info:
        record.exc_text = hide("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    return True


def masked(url: str) -> str:
    """`url` without its password and other secrets, for people to read."""
    return reduce(lambda text, known: known.sub(rf"\g<before>{MASK}", text), IN_URL, url)


def shown(settings: msgspec.Struct) -> dict[str, Any]:
    """The settings as plain data for people to read, every secret masked."""

    def mask(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: mask(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [mask(item, key) for item in value]
        if value and (SECRET_KEY.search(key) or str(value) in _concealed.secrets):
            return MASK
        return hide(masked(value)) if isinstance(value, str) else value

    data: dict[str, Any] = mask(msgspec.to_builtins(settings))
    return data
