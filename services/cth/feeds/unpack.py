"""Unpack: from the bytes of a feed to lines of text, by what they begin with; what the lines say is not known here."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO, Any, BinaryIO, cast

MAX_LINE = 10_000  # characters; the rest of a longer line is another line
MAX_DEPTH = 3  # of containers in containers
# Real feeds unpack to some 5 to 30 times their size: what unpacks to more than all of these is a bomb
MAX_RATIO, FREE_BYTES, MAX_BYTES = 200, 64 * 1024 * 1024, 4 * 1024 * 1024 * 1024

PACKED: list[tuple[bytes, Callable[[Any], Any]]] = [
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
]
BOMS = [(b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32")]
BOMS += [(b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")]
BROKEN = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, RuntimeError, NotImplementedError)
"""What the libraries raise for what cannot be unpacked, beside OSError."""


class Bounded(io.RawIOBase):
    """A stream that raises OSError when it has given `left` bytes and there are more."""

    def __init__(self, stream: IO[bytes], left: int) -> None:
        self._stream, self._left, self._most = stream, left, left

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See RawIOBase."""
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise OSError(f"it unpacks to more than {self._most:,} bytes, which no feed does")
        buffer[: len(data)] = data
        return len(data)


def members(file: BinaryIO) -> Iterator[tuple[str, Iterator[str]]]:
    """The name, "" outside an archive, and the lines of each text in a file, which is gzip, bz2, xz, zip, tar or plain.

    Each is to be read before the next is asked for. Raises OSError for what is broken, has a password, or is a bomb.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    bound = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * size))
    try:
        yield from _members("", cast(io.BufferedReader, file), bound, 0)
    except BROKEN as error:
        raise OSError(str(error) or type(error).__name__) from error


def _members(name: str, file: io.BufferedReader, bound: int, depth: int) -> Iterator[tuple[str, Iterator[str]]]:
    start = file.peek(512)
    unpack = next((unpack for magic, unpack in PACKED if start.startswith(magic)), None)
    is_archive = start.startswith(b"PK\x03\x04") or start[257:262] == b"ustar"
    if depth == MAX_DEPTH and (unpack or is_archive):
        raise OSError(f"it has more than {MAX_DEPTH} nested levels of archives and compression")
    if unpack:
        with unpack(file) as stream:
            yield from _members(name, _bounded(stream, bound), bound, depth + 1)
    elif is_archive:
        for inner, stream in (_zipped if start.startswith(b"PK") else _tarred)(file, depth):
            yield from _members(inner, _bounded(stream, bound), bound, depth + 1)
    else:
        encoding = next((encoding for bom, encoding in BOMS if start.startswith(bom)), "utf-8")
        text = io.TextIOWrapper(file, encoding=encoding, errors="replace")
        try:
            yield name, _lines(text)
        finally:
            text.detach()  # whoever has opened the file closes it


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    try:
        yield from iter(lambda: text.readline(MAX_LINE), "")
    except BROKEN as error:
        raise OSError(str(error) or type(error).__name__) from error


def _bounded(stream: IO[bytes], bound: int) -> io.BufferedReader:
    return io.BufferedReader(Bounded(stream, bound))


def _zipped(file: io.BufferedReader, depth: int) -> Iterator[tuple[str, IO[bytes]]]:
    """The files in a zip file, which has to be read from its end."""
    with ExitStack() as stack:
        if depth:
            copy = stack.enter_context(io.BytesIO(file.read(FREE_BYTES + 1)))
            if copy.getbuffer().nbytes > FREE_BYTES:
                raise OSError(f"it holds an archive of more than {FREE_BYTES:,} bytes")
        archive = stack.enter_context(zipfile.ZipFile(copy if depth else file))
        for info in archive.infolist():
            if not info.is_dir() and not info.filename.startswith(("__MACOSX/", ".")):
                with archive.open(info) as stream:
                    yield info.filename, stream


def _tarred(file: io.BufferedReader, depth: int) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for info in archive:
            if info.isfile() and (stream := archive.extractfile(info)):
                yield info.name, stream
