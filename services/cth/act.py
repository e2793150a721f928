"""Act: enriched indicators and alerts go to JSON lines files, alerts to an HTTP server too; nothing is decided here."""

import asyncio
import logging
import os
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.error import HTTPError

import msgspec

from mqasync import ConfigurationError, Message, consumer

from . import intelmq
from .events import Enriched

log = logging.getLogger(__name__)


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """Where results go. `post` is the http(s) URL that gets each alert as JSON, within `timeout` seconds.

    `style` is how they are written, plain or intelmq; `constants` are added to each, in IntelMQ's names.
    """

    archive: str = "cth.jsonl"
    alerts: str = "cth-alerts.jsonl"
    post: str | None = None
    timeout: float = 10.0
    style: str = "plain"
    constants: dict[str, str | int | float | bool] = {}

    def __post_init__(self) -> None:
        """Raise ValueError, quoting it, for a value that cannot be."""
        if self.style not in ("plain", "intelmq"):
            raise ValueError(f"style is {self.style!r}; it takes plain, intelmq")
        if self.constants and self.style == "plain":
            raise ValueError("constants are for style: intelmq")
        if wrong := [name for name in self.constants if not intelmq.KEY.fullmatch(name)]:
            raise ValueError(f"constants has {wrong[0]!r}; it takes names such as classification.type or extra.team")


class JsonLines:
    """A file to which lines are added; each is on the disk when `add` returns.

    A line that a killed process left unfinished is removed at the start: its message is redelivered.
    Only one process at a time may write to it. Raises ConfigurationError for a path that cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.added = 0
        try:
            self._file = open(path, "ab+")  # noqa: SIM115, closed by lifespan
        except OSError as error:
            raise ConfigurationError(f"the file {path!r} cannot be written: {error.strerror}") from error
        end = self._file.tell()
        while end and self._byte_before(end) != b"\n":
            end -= 1
        self._file.truncate(end)

    def _byte_before(self, place: int) -> bytes:
        self._file.seek(place - 1)
        return self._file.read(1)

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Add one line for each dict; blocks until they are on the disk. Raises OSError."""
        self._file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.added += len(lines)

    def close(self) -> None:
        """Close the file and say what was added."""
        self._file.close()
        log.info("%s lines added to %s", f"{self.added:,}", self.path)


@asynccontextmanager
async def lifespan(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """The two files, open."""
    archive_file, alerts_file = JsonLines(settings.archive), JsonLines(settings.alerts)
    try:
        yield {"archive_file": archive_file, "alerts_file": alerts_file, "settings": settings}
    finally:
        archive_file.close()
        alerts_file.close()


@consumer(exchange="enriched", id="archive", batch_size=500, batch_wait=0.05)
async def archive(events: list[Enriched], messages: list[Message], archive_file: JsonLines, settings: Settings) -> None:
    """Write many at the same time; a line's id distinguishes the same event from another one like it."""
    lines = [line(event, message, settings) for event, message in zip(events, messages, strict=True)]
    await asyncio.to_thread(archive_file.add, lines)


@consumer(exchange="alerts", id="alert", concurrency=1)
async def alert(event: Enriched, message: Message, alerts_file: JsonLines, settings: Settings) -> None:
    """Post one alert, if there is a URL to post it to, and write it to the file. An error is retried."""
    if settings.post:
        await asyncio.to_thread(post, settings.post, line(event, message, settings), settings.timeout)
    await asyncio.to_thread(alerts_file.add, [line(event, message, settings)])


def line(event: Enriched, message: Message, settings: Settings) -> dict[str, Any]:
    """What is written about one event."""
    if settings.style == "intelmq":
        return intelmq.flat(event, message, settings.constants)
    return {"id": message.id, **msgspec.to_builtins(event)}


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as an error: following it would turn the POST into a GET without the alert."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        """Never ask elsewhere."""


def post(url: str, body: dict[str, Any], timeout: float) -> None:
    """POST `body` as JSON. Raises OSError for a network error, and for any answer but 2xx."""
    request = urllib.request.Request(  # noqa: S310, the operator chose the URL
        url, data=msgspec.json.encode(body), headers={"Content-Type": "application/json"}
    )
    try:
        urllib.request.build_opener(NoRedirect).open(request, timeout=timeout).close()
    except HTTPError as error:
        error.close()
        raise OSError(f"{url} answered {error.code}") from None
