"""Collect: the records of a feed, from a file or URL, in the formats that CERTs meet; it does not judge them.

Text lists (one indicator a line, # ; and // comments), CSV with a header, JSON lines; gzip or not.
"""

import asyncio
import csv
import gzip
import urllib.request
import uuid
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from http.client import HTTPException
from io import BufferedReader, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from mqasync import ConfigurationError, Out, producer

from .events import Record

SAMPLE = str(Path(__file__).with_name("sample.txt"))
TIMEOUT = 30.0  # seconds that a server may stay silent
AT_ONCE = 1000  # records read in one go, in a thread
MAX_LINE = 10_000  # characters; the rest of a longer line is another line, and no indicator
VALUES = (
    *("indicator", "ioc", "value", "ip", "ip_address", "dst_ip", "network", "domain", "host", "url"),
    *("md5", "sha1", "sha256", "sha512", "hash"),
)
DATES = ("first_seen", "first_seen_utc", "firstseen", "date", "dateadded", "timestamp")


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """`feed` is a path or an http(s) URL."""

    feed: str = SAMPLE


@asynccontextmanager
async def lifespan(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """Hand the feed's place to the producer. Raises ConfigurationError when there is no such file."""
    check(settings.feed)
    yield {"feed": settings.feed}


@producer(exchange="CTH", id="feed")
async def collect(feed: str) -> AsyncIterator[Out]:
    """Put out every record; its id is made of place and value, so reading a feed again repeats the ids."""
    with ExitStack() as stack:
        lines = await asyncio.to_thread(stack.enter_context, open_feed(feed))
        numbered = enumerate(records(lines, feed), 1)
        while batch := await asyncio.to_thread(list, islice(numbered, AT_ONCE)):
            for number, record in batch:
                yield Out(record, id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{feed}#{number}/{record.value}")))


def check(feed: str) -> None:
    """Raise ConfigurationError for what is neither a URL nor a file."""
    if not is_url(feed) and not Path(feed).is_file():
        raise ConfigurationError(f"the feed {feed!r} is neither a file nor an http(s) URL")


def is_url(feed: str) -> bool:
    """True for what is fetched and not opened."""
    return feed.startswith(("http://", "https://"))


@contextmanager
def open_feed(feed: str) -> Iterator[Iterator[str]]:
    """The lines of a file or URL, unzipped, whatever its encoding got wrong.

    Raises OSError, quoting the place, when it cannot be read to its end.
    """
    try:
        source = urllib.request.urlopen(feed, timeout=TIMEOUT) if is_url(feed) else open(feed, "rb")  # noqa: S310, SIM115
        with source, BufferedReader(source) as file:
            is_zipped = file.peek(2).startswith(b"\x1f\x8b")
            with TextIOWrapper(gzip.open(file) if is_zipped else file, encoding="utf-8-sig", errors="replace") as text:
                yield _lines(text, source)
    except (OSError, EOFError, HTTPException, zlib.error) as error:
        raise OSError(f"the feed {feed} cannot be read: {error}") from error


def _lines(text: TextIOWrapper, source: Any) -> Iterator[str]:
    yield from iter(lambda: text.readline(MAX_LINE), "")
    # what an HTTP answer announced and did not bring; http.client takes that for the end
    if missing := getattr(source, "length", None):
        raise EOFError(f"it ended {missing} bytes too early")


def records(text: Iterable[str], source: str) -> Iterator[Record]:
    """The records in the lines of a feed, whose format the first of them tells."""
    useful = (line for line in text if line.strip() and not line.lstrip().startswith(("#", ";", "//")))
    first = next(useful, "")
    if first.lstrip().startswith("{"):
        yield from (_from_json(line, source) for line in (first, *useful))
    elif "," in first and any(name.strip().lower() in VALUES for name in _cells(first)):
        yield from _from_csv(first, useful, source)
    elif first:
        yield _from_text(first, source)
        yield from (_from_text(line, source) for line in useful)


def _from_text(line: str, source: str) -> Record:
    return Record(line.split()[0].rstrip(",;"), source)  # what follows is a count or a comment


def _from_json(line: str, source: str) -> Record:
    try:
        entry = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return Record(line.strip(), source)
    return _record(list(entry), ["" if value is None else str(value) for value in entry.values()], source)


def _from_csv(header: str, rows: Iterator[str], source: str) -> Iterator[Record]:
    names = _cells(header)
    for row in rows:
        yield _record(names, _cells(row), source)


def _cells(row: str) -> list[str]:
    """One row at a time, so that a quote which is never closed spoils its own row and not the rest of the feed."""
    return next(csv.reader([row]), [])


def _record(names: list[str], values: list[str], source: str) -> Record:
    cells = {name.strip().lower(): value.strip() for name, value in zip(names, values, strict=False)}
    value, date = (next((cells[name] for name in wanted if cells.get(name)), None) for wanted in (VALUES, DATES))
    return Record(value or ",".join(values), source, date)
