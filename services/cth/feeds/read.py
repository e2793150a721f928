"""Read: the form of a feed is told by its first lines, then it is read to its end; no single form is known here."""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec

from . import documents, lists, tables
from .documents import Unreadable
from .fields import Entry, kind_of
from .values import KINDS

SAMPLE = 200  # lines that tell the form
FORMATS = ("auto", "list", *lists.NAMES, "table", "json", "xml", "html")
TYPES = (*KINDS, "hash")
COMMENT = re.compile(r"\s*(?:#|;|//|!|--\s|/\*|$)")
COMMENTED = re.compile(r"\s*[#;]+\s*")
MARKUP = re.compile(r"\s*<(?:\?xml|!--|!doctype|[a-z][\w:.-]*[\s/>])", re.IGNORECASE)
HTML = re.compile(r"<(?:!doctype\s+html|html|table|body|head|pre)\b", re.IGNORECASE)
JSON = re.compile(r"\s*(?:\{|\[\s*(?:[{\[\"\]]|$))")


class Form(msgspec.Struct, forbid_unknown_fields=True):
    """How a feed is read, where guessing fails.

    `format`: one of FORMATS. `columns`: names of the columns of a table, in order: domain, url, date, any other.
    `delimiter`: what stands between them, one character. `type`: the kind of all that does not say its own.
    """

    format: str = "auto"
    columns: tuple[str, ...] = ()
    delimiter: str = ""
    type: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError, quoting it, for a value that cannot be."""
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; it takes {', '.join(FORMATS)}")
        if self.type and self.type not in TYPES:
            raise ValueError(f"type is {self.type!r}; it takes {', '.join(TYPES)}")
        if len(self.delimiter) > 1:
            raise ValueError(f"delimiter is {self.delimiter!r}; it takes one character")
        if self.columns and not tables.is_named([name or "-" for name in self.columns]):
            names = ", ".join(TYPES)
            raise ValueError(f"columns is {list(self.columns)!r}; one of them must be an indicator: value, {names}")


class Lines:
    """The lines of a feed, of which the first ones can be looked at before they are taken; counts them."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._ahead: deque[str] = deque()
        self.number = self.broken = 0
        self._ended = True

    def ahead(self, useful: int) -> list[str]:
        """The next lines, with so many among them that are neither blank nor comments."""
        left = useful
        for line in self._lines:
            self._ahead.append(line)
            left -= not COMMENT.match(line)
            if not left or len(self._ahead) > 10 * useful:
                break
        return list(self._ahead)

    def __iter__(self) -> Iterator[str]:
        while self._ahead:
            yield self._seen(self._ahead.popleft())
        yield from map(self._seen, self._lines)

    def _seen(self, line: str) -> str:
        self.number += self._ended  # a line that was read in pieces counts once
        self._ended = line.endswith("\n")
        self.broken += "\N{REPLACEMENT CHARACTER}" in line
        return line


def read(lines: Lines, form: Form) -> Iterator[Entry]:
    """The entries of a feed. Raises Unreadable for a document that is broken."""
    ahead = lines.ahead(SAMPLE)
    useful = [line for line in ahead if not COMMENT.match(line)]
    first = next((line for line in ahead if line.strip()), "")
    format = form.format
    if format == "auto" and MARKUP.match(first):
        format = "html" if HTML.search("".join(ahead)[:5_000]) else "xml"
    elif format == "auto" and useful and JSON.match(useful[0]):
        format = "json"
    if format == "json":
        return of_json(lines, form.type)
    if format == "xml":
        return documents.of_xml(lines, form.type)
    if format == "html":
        return read(
            Lines(documents.lines_of_html(limited(lines, documents.MAX_PAGE))),
            msgspec.structs.replace(form, format="auto"),
        )
    if form.columns or form.delimiter or format == "table":
        table = table_of(ahead, useful, form)
        if table is None:
            raise Unreadable("it is not a table, which its configuration says it is")
        return of_table(lines, table)
    formed = sum(lists.form_of(line) is not None for line in useful)
    if format == "auto" and formed < len(useful) / 2 and (table := table_of(ahead, useful, form)):
        return of_table(lines, table)
    return of_list(lines, form.type, format if format in lists.NAMES else "", form.format == "auto" and not formed)


def table_of(ahead: list[str], useful: list[str], form: Form) -> tables.Table | None:
    """The table that the first lines are of, if they are of one."""
    comments = [COMMENTED.sub("", line, count=1) for line in ahead if COMMENTED.match(line)]
    if zeek := next((line.split("\t")[1:] for line in ahead if line.startswith("#fields\t")), None):
        return tables.recognise(useful, [], [name.strip() for name in zeek], "\t")
    return tables.recognise(useful, comments, form.columns, form.delimiter, form.type)


def of_table(lines: Iterable[str], table: tables.Table) -> Iterator[Entry]:
    """The entries of a table."""
    for line in lines:
        is_row = table.header and line[:1] == table.delimiter  # with nothing in its first cell
        if is_row or not COMMENT.match(line):
            yield from table.entries(line)


def of_list(lines: Iterable[str], hint: str, only: str, is_plain: bool) -> Iterator[Entry]:
    """The entries of a list; `only` lines of this form, if given. What stands under a heading for sources is none."""
    at_first, of_sources = True, False
    for line in (line.strip() for line in lines):
        if COMMENT.match(line):
            of_sources &= not line
            of_sources |= bool(lists.SOURCES.fullmatch(line.lstrip("# ").rstrip(": ")))
            continue
        if found := None if is_plain else lists.form_of(line, only):
            yield from lists.of_form(*found, hint)
        else:
            entry = lists.plain(line, hint)
            if at_first and not entry.found and len(line.split()) < 4 and kind_of(line) not in ("", "other"):
                continue  # the header of the only column
            if not entry.found and lists.HEADING.fullmatch(line):
                of_sources = bool(lists.SOURCES.fullmatch(line.rstrip(": ")))
            is_source = of_sources and any(one.kind == "url" for one in entry.found)
            yield entry._replace(skipped=True) if is_source else entry
        at_first = False


def of_json(lines: Lines, hint: str) -> Iterator[Entry]:
    """The entries of JSON lines, or of one JSON document."""
    whole = (line for line in joined(lines) if not COMMENT.match(line))
    first, second = next(whole, ""), next(whole, "")
    try:
        node = documents.decoded(first)
    except Unreadable:
        if not JSON.match(second) or not first.rstrip().endswith(("}", "]")):
            return documents.of_json(documents.decoded(limited(chain((first, second), whole))), hint)
        node = first
    if not second:
        return documents.of_json(node, hint)
    return of_json_lines(chain((first, second), whole), hint)


def of_json_lines(lines: Iterable[str], hint: str) -> Iterator[Entry]:
    """The entries of JSON lines; one that is torn is refused."""
    for line in lines:
        try:
            node = documents.decoded(line)
        except Unreadable:
            yield Entry(line.strip()[:10_000])
        else:
            yield from documents.of_json(node, hint)


def joined(lines: Iterable[str]) -> Iterator[str]:
    """Lines that were read in pieces, whole again."""
    pieces: list[str] = []
    for piece in lines:
        pieces.append(piece)
        if piece.endswith("\n"):
            yield limited(pieces)
            pieces.clear()
    if pieces:
        yield limited(pieces)


def limited(pieces: Iterable[str], most: int = 0) -> str:
    """All in one. Raises Unreadable where that is too much."""
    size, kept, most = 0, [], most or documents.MAX_DOCUMENT
    for piece in pieces:
        size += len(piece)
        if size > most:
            raise Unreadable(f"it is a document of more than {most:,} characters")
        kept.append(piece)
    return "".join(kept)
