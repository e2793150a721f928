"""Collect: the records of feeds, from files or URLs, whatever form they have; what they are worth is not judged.

feeds/ reads them; what is logged about each at its end, and what is published, is here.
"""

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import msgspec

from mqasync import ConfigurationError, Out, producer

from .events import Record
from .feeds import fetch, unpack
from .feeds.dates import when
from .feeds.documents import Unreadable
from .feeds.fields import Entry
from .feeds.read import SAMPLE, Form, Lines, read

log = logging.getLogger(__name__)

SAMPLE_FEED = str(Path(__file__).with_name("sample.txt"))
AT_ONCE = 1000  # records read in one go, in a thread
NEARLY_ALL = 0.8


class Feed(Form, forbid_unknown_fields=True, kw_only=True):
    """One feed: `url` is a path or an http(s) URL, `name` (else the URL) and `provider` travel along with its records.

    The other fields, those of Form, are for where guessing fails.
    """

    url: str
    name: str = ""
    provider: str = ""

    @property
    def place(self) -> str:
        """The URL as it may be logged: without user, password and query, which can hold keys."""
        parts = urlsplit(self.url)
        netloc = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=netloc, query="").geturl() if fetch.is_url(self.url) else self.url

    def __post_init__(self) -> None:
        """Raise ValueError, quoting it, for a value that cannot be."""
        super().__post_init__()
        if not fetch.exists(self.url):
            raise ValueError(f"the feed {self.url!r} is neither a file nor an http(s) URL")


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """`feed` is a path or an http(s) URL, `feeds` are several with more to say about each; both are read.

    Without either it is the sample. `timeout`: seconds for fetching one of them, the whole of it.
    """

    feed: str = ""
    feeds: tuple[Any, ...] = ()
    timeout: float = 300.0

    def __post_init__(self) -> None:
        """Make each of `feeds` a Feed. Raises ValueError, quoting it, for what cannot be."""
        self.feeds = tuple(map(described, self.feeds))


def described(feed: Any) -> Feed:
    """A feed as config.yml describes it. Raises ValueError, quoting what it cannot be."""
    known = Feed.__struct_fields__
    if unknown := [key for key in feed if key not in known] if isinstance(feed, dict) else [feed]:
        raise ValueError(f"a feed has no key {unknown[0]!r}; valid keys: {', '.join(known)}")
    try:
        return msgspec.convert(feed, Feed, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


@asynccontextmanager
async def lifespan(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """Hand the feeds to the producer, and what it remembers of each. Raises ConfigurationError for a missing file."""
    alone = settings.feed or ("" if settings.feeds else SAMPLE_FEED)
    try:
        feeds = [*([Feed(url=alone)] if alone else []), *settings.feeds]
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    yield {"feeds": feeds, "visits": {}, "timeout": settings.timeout}


@producer(exchange="CTH", id="feed", every="1h")
async def collect(feeds: list[Feed], visits: dict[str, fetch.Visit], timeout: float) -> AsyncIterator[Out]:
    """Publish every record of every feed that has changed. A feed that cannot be read does not hold up the others.

    Raises OSError, quoting the place, and ConfigurationError for one whose form is not understood.
    """
    failed: list[Exception] = []
    for feed in feeds:
        try:
            async for out in collected(feed, visits.setdefault(feed.url, fetch.Visit()), timeout):
                yield out
        except (OSError, ConfigurationError) as error:
            failed.append(error)
            if len(feeds) > 1:
                log.error("%s", error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise OSError(f"{len(failed)} of {len(feeds)} feeds were not read")


async def collected(feed: Feed, visit: fetch.Visit, timeout: float) -> AsyncIterator[Out]:
    """Every record of one feed; its id is made of place and value, so reading a feed again repeats the ids."""
    try:
        async with fetch.fetched(feed.url, visit, timeout) as fetched:
            if fetched.file is None:
                log.info("the feed %s has not changed", feed.name or feed.place)
                return
            numbered = enumerate(records(feed, cast(BinaryIO, fetched.file)), 1)
            while batch := await asyncio.to_thread(list, islice(numbered, AT_ONCE)):
                for number, record in batch:
                    yield Out(record, id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{feed.place}#{number}/{record.value}")))
            visit.etag, visit.modified = fetched.visit.etag, fetched.visit.modified
    except OSError as error:
        raise OSError(f"the feed {feed.place} cannot be read: {error}") from error


def records(feed: Feed, file: BinaryIO) -> Iterator[Record]:
    """The records in a file, each member of an archive separately; logs at the end of each what was in it."""
    for member, text in unpack.members(file):
        source = f"{feed.place}/{member}" if member else feed.place
        lines = Lines(text)
        account = Account(source, lines)
        try:
            for entry in account.checked(read(lines, feed)):
                if not entry.skipped:
                    extra = dict(entry.extra)
                    yield Record(entry.value, source, entry.date or None, entry.hint, feed.name, feed.provider, extra)
        except Unreadable as error:
            raise OSError(str(error)) from error
        account.say()


class Account:
    """What was in a feed: counts entries as they pass, and logs the counts at the end."""

    def __init__(self, source: str, lines: Lines) -> None:
        self._source, self._lines = source, lines
        self._kinds: Counter[str] = Counter()
        self._refused = self._skipped = self._no_dates = self._lead = 0
        self._no_date = ""
        self._most: tuple[str, str] | None = None

    def checked(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """The entries. Raises ConfigurationError, before the first, if none at the beginning is an indicator."""
        waiting: list[Entry] = []
        for entry in entries:
            self._count(entry)
            if not self._kinds:
                waiting += [] if entry.skipped else [entry]
                if self._refused == SAMPLE:
                    break
            else:
                yield from waiting
                waiting.clear()
                yield entry
        if waiting:
            what = f"nothing in the feed {self._source} is an indicator; it begins with {waiting[0].value[:100]!r}"
            raise ConfigurationError(f"{what}; set its `format` or `columns` in config.yml")

    def _count(self, entry: Entry) -> None:
        self._skipped += entry.skipped
        self._refused += not entry.skipped and not entry.found
        for kind, value, _ in entry.found if not entry.skipped else ():
            self._kinds[kind] += 1
            # the vote of Boyer and Moore: what leads at the end is the only one that can be most of them
            if self._lead == 0:
                self._most = (kind, value)
            self._lead += 1 if self._most == (kind, value) else -1
        if entry.date and not when(entry.date):
            self._no_dates += 1
            self._no_date = self._no_date or entry.date

    def say(self) -> None:
        """Log it, and what may be wrong with it."""
        total = sum(self._kinds.values())
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self._kinds.most_common())
        log.info(
            "the feed %s: %s lines, indicators: %s%s; %s refused, %s skipped",
            self._source,
            f"{self._lines.number:,}",
            f"{total:,}",
            f" ({kinds})" if kinds else "",
            f"{self._refused:,}",
            f"{self._skipped:,}",
        )
        if self._lines.broken:
            log.warning("the feed %s: %s lines had bytes that are not text", self._source, f"{self._lines.broken:,}")
        if self._no_dates:
            what = "the feed %s: %s dates cannot be read, the first is %r"
            log.warning(what, self._source, f"{self._no_dates:,}", self._no_date[:100])
        if total >= 20 and self._lead >= NEARLY_ALL * total and self._most:
            log.warning("the feed %s: nearly all of it is %s; is it read correctly?", self._source, self._most[1])
