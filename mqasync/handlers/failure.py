"""Errors of handlers as text, whatever their own methods do, secrets masked; nothing is logged or settled here.

The text of an exception comes from a user's or a library's code: that may raise, or return text that no broker
can carry.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

from ..errors import Expired, InvalidMessage, Reject
from ..masking import hide

MAX_TRACEBACK = 8_000
MAX_TEXT = 1_000
HOPELESS = (Reject, InvalidMessage, Expired)
"""Errors that a retry cannot help."""


def inner(error: BaseException) -> list[BaseException]:
    """The errors in a group, and in groups inside it; any other error alone."""
    found, left = [], [error]
    while left:
        one = left.pop()
        if isinstance(one, BaseExceptionGroup):
            left += reversed(one.exceptions)
        else:
            found.append(one)
    return found


def plain(error: BaseException) -> BaseException:
    """`error`, or a Reject for a group of nothing but errors that a retry cannot help."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    errors = inner(error)
    if not all(isinstance(one, HOPELESS) for one in errors):
        return error
    rejected = Reject("; ".join(map(text, errors[:MAX_TEXT])))
    rejected.__cause__ = error
    return rejected


def text(error: BaseException) -> str:
    """The first MAX_TEXT characters of its text; of a group, also the names and texts of the errors inside."""
    said = _safely(lambda: str(error), "text")
    if isinstance(error, BaseExceptionGroup):
        said += ": " + "; ".join(f"{type(one).__name__}: {text(one)}" for one in inner(error)[:MAX_TEXT])
    return said[:MAX_TEXT]


def kind(error: BaseException) -> str:
    """Its class with its module; of a group, also those of the errors inside."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, BaseExceptionGroup):
        name += f" of {', '.join(dict.fromkeys(map(kind, inner(error))))}"
    return name[:MAX_TEXT]


def trace(error: BaseException) -> str:
    """The end of its traceback."""
    return _safely(lambda: "".join(traceback.format_exception(error)), "traceback")[-MAX_TRACEBACK:]


def describe(error: BaseException) -> str:
    """Kind, text and place of an error on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(text(error).split())[:300]}{place}"


def _safely(say: Callable[[], str], what: str) -> str:
    try:
        return hide(say().encode("utf-8", "replace").decode())  # without lone surrogates, which no broker can carry
    except BaseException as problem:  # a panic of a Rust extension too
        return f"(it has no {what}: {type(problem).__name__} while it was asked for)"
