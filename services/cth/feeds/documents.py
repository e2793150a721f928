"""Documents: JSON, XML and HTML; what fields mean is fields.py's. No entity is expanded and no address followed."""

import re
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from itertools import chain, islice
from typing import Any
from xml.etree.ElementTree import ParseError

import msgspec
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from . import tables
from .fields import Cell, Entry, entries, kind_of, text
from .lists import plain
from .values import classify

MAX_DOCUMENT = 100 * 1024 * 1024  # characters of a JSON document, which is in memory as a whole
DEPTH = 100
NOTES = ("id", "name", "description", "labels", "indicator_types", "confidence")  # that travel with a STIX pattern
CONTEXT = ("info", "name", "title", "description", "malware", "family")  # of what an indicator stands in
COMPARISON = re.compile(
    r"(?P<path>[\w-]+:[\w.'\"\[\]*-]+)\s+(?P<not>NOT\s+)?(?P<how>=|IN|ISSUBSET)\s*"
    r"(?P<values>\(?(?:\s*,?\s*(?:'(?:[^'\\]|\\.)*'|\d+))+)"
)
LITERAL = re.compile(r"'((?:[^'\\]|\\.)*)'|(\d+)")


class Unreadable(Exception):
    """What it says is what is wrong with a document."""


def decoded(document: str) -> Any:
    """A JSON document. Raises Unreadable."""
    try:
        return msgspec.json.decode(document)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Unreadable(f"it begins like JSON, but: {error}") from None


def of_json(node: Any, hint: str = "") -> Iterator[Entry]:
    """The entries of a JSON value."""
    found = walk(node, hint)
    if (first := next(found, None)) is not None:
        yield first
        yield from found
    elif node and not (isinstance(node, dict) and any(value == [] for value in node.values())):
        yield Entry(msgspec.json.encode(node).decode()[:200])


def walk(node: Any, hint: str = "", context: Mapping[str, str] = {}, depth: int = 0) -> Iterator[Entry]:
    """The entries of a JSON value, and of those inside it; in what is an indicator itself there are only notes."""
    if isinstance(node, list) and depth < DEPTH:
        if any(isinstance(one, dict) and "pattern" in one and one.get("type") == "indicator" for one in node):
            node = [one for one in node if isinstance(one, dict) and "pattern" in one]  # the others are about these
        for one in node:
            yield from walk(one, hint, context, depth + 1)
    elif isinstance(node, str):
        yield Entry(node, hint, extra=context, found=classify(node, hint))
    elif isinstance(node, dict) and depth < DEPTH:
        yield from _of_object(node, hint, context, depth)


def _of_object(node: dict[str, Any], hint: str, context: Mapping[str, str], depth: int) -> Iterator[Entry]:
    fields = {key: cell for key, value in node.items() if (cell := _cell(value)) is not None}
    if (
        isinstance(pattern := node.get("pattern"), str)
        and node.get("pattern_type", "stix") == "stix"
        and "[" in pattern
    ):
        made = list(of_pattern(node, pattern, fields))
    else:
        made = list(entries(tuple(fields), list(fields.values()), hint))
    for entry in made:
        yield entry._replace(extra={**context, **entry.extra})
    own = bool(made)
    if not own:
        context = {**context, **{key: node[key][:200] for key in CONTEXT if isinstance(node.get(key), str)}}
    for key, value in node.items():
        kind = kind_of(key)
        if kind == "other" or (own and (not kind or key in fields)):
            continue
        if isinstance(value, dict | list) and (key not in fields or not kind):
            if key in fields:  # a list of texts under a name that says nothing
                yield from (one for one in walk(value, hint, context, depth + 1) if one.found)
            elif not own and classify(key):
                yield Entry(key, hint, extra=context, found=classify(key))
            else:
                yield from walk(value, hint if kind in ("", "value") else kind, context, depth + 1)
        elif not own and not kind and isinstance(value, str | int | float) and (found := _as_key(key)):
            yield Entry(key, hint, extra={"value": str(value)}, found=found)


def _as_key(key: str) -> Any:
    return classify(key) if "." in key or ":" in key or len(key) >= 32 else []


def _cell(value: Any) -> Cell | None:
    """A value as the text of a field, or the texts; None for what has fields of its own."""
    if isinstance(value, list):
        cells = [_cell(one) for one in value]
        return (
            [cell for cell in cells if isinstance(cell, str)] if all(isinstance(cell, str) for cell in cells) else None
        )
    if isinstance(value, dict):
        return None
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def of_pattern(node: Mapping[str, Any], pattern: str, fields: Mapping[str, Cell]) -> Iterator[Entry]:
    """The indicators that a STIX 2 pattern compares with, whatever joins the comparisons."""
    if node.get("revoked") or "benign" in (node.get("indicator_types") or ()):
        yield Entry(pattern, skipped=True)
        return
    extra = {
        key: text(cell)[:1000] for key, cell in fields.items() if key in (*CONTEXT, "labels", "indicator_types", "id")
    }
    date = text(fields.get("valid_from") or fields.get("created") or "")
    refused = True
    for comparison in COMPARISON.finditer(pattern[:100_000]):
        path = re.sub(r"'SHA-?(\d+)'|\"SHA-?(\d+)\"", r"sha\1\2", comparison["path"], flags=re.IGNORECASE)
        about, _, field = path.partition(":")
        kind = kind_of(field.split(".")[-1] if "hashes" in field else about if field != "value" else path)
        if field in (
            "dst_ref.value",
            "src_ref.value",
            "resolves_to_refs[*].value",
            "from_ref.value",
            "sender_ref.value",
        ):
            kind = ""
        elif not ("hashes" in field or field == "value" or about == "autonomous-system"):
            continue
        for quoted, number in LITERAL.findall(comparison["values"]):
            value = re.sub(r"\\(.)", r"\1", quoted) or number
            if (found := classify(value, kind)) and not comparison["not"]:
                yield Entry(value, kind, date, extra, found)
                refused = False
    if refused:
        yield Entry(pattern, skipped=True)


class XmlTarget:
    """Takes the events of an XML parser: fields of an element are its attributes and the children that hold text."""

    def __init__(self, hint: str) -> None:
        self.made: list[Entry] = []
        self._hint = hint
        self._open: list[tuple[str, dict[str, str], list[tuple[str, str]]]] = []
        self._text: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        self._open.append((tag.rpartition("}")[2], attributes, []))
        self._text = []

    def data(self, text: str) -> None:
        """Some of its text."""
        self._text.append(text)

    def end(self, tag: str) -> None:
        """It ends; one that is excluded, or has not the condition to be equal, is none."""
        name, attributes, fields = self._open.pop()
        own = "".join(self._text).strip()
        self._text = []
        if fields:
            self._row(name, attributes, fields)
        elif self._open:
            parent = self._open[-1][2]
            if search := attributes.get("search"):  # what OpenIOC says of the content beside it
                last = search.rpartition("/")[2]
                parent.append(("indicator_type", last if kind_of(last) else search))
            elif kind_of(type := attributes.get("type", "")):
                parent.append(("type", type))
            parent.append((name, own))

    def _row(self, name: str, attributes: dict[str, str], fields: list[tuple[str, str]]) -> None:
        excluded = any(kind_of(name) == "other" for name, _, _ in self._open) or kind_of(name) == "other"
        condition = attributes.get("condition", "is").lower()
        if excluded or condition.startswith(("isnot", "not")) or attributes.get("negate", "false") == "true":
            return
        names, cells = zip(*fields, strict=True)
        self.made += entries(names, cells, self._hint)


def of_xml(lines: Iterable[str], hint: str = "") -> Iterator[Entry]:
    """The entries of XML: OpenIOC, STIX 1 and any other whose elements have names that are known. Raises Unreadable."""
    target = XmlTarget(hint)
    parser = DefusedXMLParser(target=target, forbid_entities=True, forbid_external=True)
    try:
        for line in lines:
            parser.feed(line)
            yield from target.made
            target.made.clear()
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise Unreadable(f"it begins like XML, but: {error!r}") from None


class HtmlRows(HTMLParser):
    """Takes the rows of tables, and the lines of what is set as it was typed, out of HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.lines: list[str] = []
        self._row: list[str] | None = None
        self._typed = self._hidden = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """See HTMLParser."""
        if tag == "tr":
            self._row = []
        elif tag in ("td", "th") and self._row is not None:
            self._row.append("")
        elif tag == "br" and self._row:
            self._row[-1] += " "
        elif tag in ("pre", "script", "style"):
            self._typed, self._hidden = tag == "pre", tag != "pre"

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        if tag in ("tr", "table") and self._row is not None:
            self.rows += [[" ".join(cell.split()) for cell in self._row]] if self._row else []
            self._row = None
        elif tag in ("pre", "script", "style"):
            self._typed = self._hidden = False

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        if self._row and not self._hidden:
            self._row[-1] += data
        elif self._typed:
            self.lines += [line for line in data.splitlines() if line.strip()]


def rows_of_html(lines: Iterable[str]) -> Iterator[list[str] | str]:
    """The rows of the tables in a page, as lists, and the lines that are set as they were typed."""
    parser = HtmlRows()
    for line in lines:
        parser.feed(line)
        yield from parser.rows
        yield from parser.lines
        parser.rows.clear()
        parser.lines.clear()


def of_html(lines: Iterable[str], hint: str = "") -> Iterator[Entry]:
    """The entries of the tables in a page; each width of rows is a table of its own."""
    rows = rows_of_html(lines)
    sample = list(islice(rows, 200))
    layouts: dict[int, tables.Table] = {}
    for row in chain(sample, rows):
        if isinstance(row, str):
            yield plain(row, hint)
            continue
        if len(row) not in layouts:
            alike = [one for one in sample if isinstance(one, list) and len(one) == len(row)]
            layouts[len(row)] = tables.layout(alike or [row])._replace(hint=hint)
        if row != layouts[len(row)].header:
            yield from layouts[len(row)].of(list(row), " ".join(row))
