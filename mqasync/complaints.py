"""Complaints: warnings about what fails, at most one a second however fast it fails; no other logging."""

from __future__ import annotations

import logging
import time
import traceback

log = logging.getLogger("mqasync")

PAUSE_SECONDS = 1.0


class Complaints:
    """Warns on behalf of one channel, and counts what it keeps to itself."""

    def __init__(self) -> None:
        self._said_at = -PAUSE_SECONDS
        self._unsaid = 0

    def say(self, text: str) -> None:
        """Warn, or only count if the last warning was less than PAUSE_SECONDS ago."""
        now = time.monotonic()
        if now - self._said_at < PAUSE_SECONDS:
            self._unsaid += 1
            return
        more = f" (and {self._unsaid:,} like it before)" if self._unsaid else ""
        self._said_at, self._unsaid = now, 0
        log.warning("%s%s", printable(text), more)


def printable(text: str) -> str:
    """`text` on one line, whatever a stranger wrote into an id: control characters as Python escapes them."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def describe(error: BaseException) -> str:
    """Kind, text and place of an error on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"
