"""Fetch: the bytes of a feed, from a file or an http(s) server, bounded in size and time; they are not looked into."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, cast

import aiohttp
import msgspec

import mqasync

MAX_BYTES = 1024 * 1024 * 1024  # of a feed as it is sent
SILENT_SECONDS = 30.0  # that a server may take to answer, and between two pieces of the answer
AGENT = f"mqasync/{mqasync.__version__} (services.cth)"
MAX_RETRY_AFTER = 24 * 3600.0  # seconds; a server that wants to be left alone for longer is asked again after that


class Visit(msgspec.Struct):
    """What is remembered of a feed between two runs: the version that was read to its end, and when to ask again."""

    etag: str = ""
    modified: str = ""
    not_before: float = 0.0  # on the monotonic clock


class Fetched(msgspec.Struct):
    """A feed's bytes in a file; `file` is None where they are those of the last visit. `visit` is to be remembered."""

    file: IO[bytes] | None
    visit: Visit


def is_url(place: str) -> bool:
    """True for what is fetched and not opened."""
    return place.lower().startswith(("http://", "https://"))


@asynccontextmanager
async def fetched(place: str, visit: Visit, seconds: float) -> AsyncIterator[Fetched]:
    """What is at a path or an http(s) URL, the whole of it within so many seconds.

    Raises OSError, in words that do not name the place.
    """
    if not is_url(place):
        with open(place, "rb") as file:  # noqa: ASYNC230, a local file, opened and not read
            status = os.stat(file.fileno())
            modified = f"{status.st_mtime_ns} {status.st_size}"
            yield Fetched(None if visit.modified == modified else file, Visit(modified=modified))
        return
    with tempfile.TemporaryFile() as file:
        yield await _download(place, visit, seconds, cast(IO[bytes], file))


async def _download(url: str, visit: Visit, seconds: float, file: IO[bytes]) -> Fetched:
    if (wait := visit.not_before - time.monotonic()) > 0:
        raise OSError(f"the server asks for a pause of {wait:.0f} s")
    headers = {"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "gzip"}  # unpacked as any other container
    headers |= {"If-None-Match": visit.etag} if visit.etag else {}
    headers |= {"If-Modified-Since": visit.modified} if visit.modified else {}
    timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
    session = aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False, headers=headers)
    try:
        async with session, session.get(url) as answer:
            if answer.status == 304:
                return Fetched(None, visit)
            if answer.status != 200:
                visit.not_before = time.monotonic() + _retry_after(answer.headers.get("Retry-After", ""))
                raise OSError(f"HTTP status {answer.status} {answer.reason or ''}".rstrip())
            if (encoding := answer.headers.get("Content-Encoding", "gzip").lower()) not in (
                "gzip",
                "x-gzip",
                "identity",
            ):
                raise OSError(f"the server sent it as {encoding!r}, which was not asked for")
            await _write(answer, file)
            return Fetched(file, Visit(answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")))
    except TimeoutError as error:
        raise OSError(f"it took more than {seconds:g} s, or {SILENT_SECONDS:g} s without data") from error
    except aiohttp.ClientError as error:
        what = getattr(error, "message", error)  # the whole of some would tell the URL, which may hold a key
        raise OSError(f"{type(error).__name__}: {what}".rstrip(": ")) from None


async def _write(answer: aiohttp.ClientResponse, file: IO[bytes]) -> None:
    size = 0
    async for data in answer.content.iter_chunked(1 << 16):
        if (size := size + len(data)) > MAX_BYTES:
            raise OSError(f"it has more than {MAX_BYTES:,} bytes")
        await asyncio.to_thread(file.write, data)
    file.seek(0)


def _retry_after(text: str) -> float:
    """Seconds, as the header says them or as the moment that it names; 0 without one."""
    try:
        seconds = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def exists(place: str) -> bool:
    """Whether there is something to fetch: any URL will do, a path has to lead to a file."""
    return is_url(place) or Path(place).is_file()
