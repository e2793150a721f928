"""Complaints: warnings about failures, at most one a second, and the same one once a minute; no other logging."""

import logging
import time

log = logging.getLogger("mqasync")

PAUSE_SECONDS = 1.0
SAME_PAUSE_SECONDS = 60.0


class Complaints:
    """Logs the warnings of one channel, and counts those that it does not log."""

    def __init__(self) -> None:
        self._said_at = -PAUSE_SECONDS
        self._unsaid = 0
        self._last = ""

    def say(self, text: str, error: BaseException | None = None) -> bool:
        """Warn, with the error's traceback if there is one; returns whether it was logged.

        It is only counted if the last warning was less than PAUSE_SECONDS ago, or the same one SAME_PAUSE_SECONDS.
        """
        now = time.monotonic()
        if now - self._said_at < (SAME_PAUSE_SECONDS if text == self._last else PAUSE_SECONDS):
            self._unsaid += 1
            return False
        more = f" (and {self._unsaid:,} more not shown)" if self._unsaid else ""
        self._said_at, self._unsaid, self._last = now, 0, text
        log.warning("%s%s", printable(text), more, exc_info=error)
        return True


def printable(text: str) -> str:
    """`text` on one line, whatever a foreign message has as its id: control characters as Python escapes them."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
