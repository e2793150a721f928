"""Documents: JSON, XML and HTML; what fields mean is fields.py's. No entity is expanded and no address followed."""

import re
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any
from xml.etree.ElementTree import ParseError

import msgspec
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from .fields import MAX_EXTRA, Cell, Entry, entries, fitting, kind_of, text
from .values import classify

MAX_DOCUMENT = 100 * 1024 * 1024  # characters of a JSON document, which is in memory as a whole
MAX_PAGE = 10 * 1024 * 1024  # characters of an HTML page, which is too
DEPTH = 100
NOTES = ("id", "name", "description", "labels", "indicator_types")  # that travel with a STIX pattern
CONTEXT = ("info", "name", "title", "description", "malware", "family")  # of what an indicator stands in
COMPARISON = re.compile(
    r"(?<![\w-])(?P<path>[\w-]{1,60}:[\w.'\"\[\]*-]{1,200})\s+(?P<not>NOT\s+)?(?P<how>=|IN|ISSUBSET)\s*"
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
        yield Entry(node, hint, extra=context, found=fitting(node, hint))
    elif isinstance(node, dict) and depth < DEPTH:
        yield from _of_object(node, hint, context, depth)


def _of_object(node: dict[str, Any], hint: str, context: Mapping[str, str], depth: int) -> Iterator[Entry]:
    fields = {key: cell for key, value in node.items() if (cell := _cell(value)) is not None}
    pattern = node.get("pattern")
    if isinstance(pattern, str) and node.get("pattern_type", "stix") == "stix" and "[" in pattern:
        made = list(of_pattern(node, pattern, fields))
    else:
        made = list(entries(tuple(fields), list(fields.values()), hint))
    yield from (entry._replace(extra={**context, **entry.extra}) for entry in made)
    if not made:
        context = {**context, **{key: node[key][:200] for key in CONTEXT if isinstance(node.get(key), str)}}
    for key, value in node.items():
        kind = kind_of(key)
        if kind == "other" or (made and (not kind or key in fields)):
            continue
        if isinstance(value, dict | list) and not (key in fields and kind):
            if not made and (found := _as_key(key)):
                yield Entry(key, hint, extra=context, found=found)
            else:  # of a list of texts whose name says nothing only what is an indicator
                inner = walk(value, hint if kind in ("", "value") else kind, context, depth + 1)
                yield from (one for one in inner if one.found or key not in fields)
        elif not made and not kind and isinstance(value, str | int | float) and (found := _as_key(key)):
            yield Entry(key, hint, extra={"value": str(value)}, found=found)
        elif not made and kind in ("ip", "domain", "url", "hash") and isinstance(value, str) and value:
            yield Entry(value, kind)


def _as_key(key: str) -> Any:
    return classify(key) if "." in key or ":" in key or len(key) >= 32 else []


def _cell(value: Any) -> Cell | None:
    """A value as the text of a field, or the texts; None for what has fields of its own."""
    if isinstance(value, list):
        cells = [_cell(one) for one in value]
        texts = [cell for cell in cells if isinstance(cell, str)]
        return texts if len(texts) == len(cells) else None
    if isinstance(value, dict):
        return None
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def of_pattern(node: Mapping[str, Any], pattern: str, fields: Mapping[str, Cell]) -> Iterator[Entry]:
    """The indicators that a STIX 2 pattern compares with, whatever joins the comparisons."""
    extra = {key: text(cell)[:MAX_EXTRA] for key, cell in fields.items() if key in NOTES}
    date = text(fields.get("valid_from") or fields.get("created") or "")
    made = []
    for found in COMPARISON.finditer(pattern[:100_000]):
        about, _, field = found["path"].partition(":")
        kind = kind_of(about if field == "value" or about == "autonomous-system" else field.partition(".")[2])
        if field.endswith(("ref.value", "refs[*].value")):
            kind = ""
        elif not (field.startswith("hashes") or field == "value" or about == "autonomous-system"):
            continue
        values = [re.sub(r"\\(.)", r"\1", quoted) or number for quoted, number in LITERAL.findall(found["values"])]
        made += [Entry(value, kind, date, extra, fitting(value, kind)) for value in values if not found["not"]]
    is_none = node.get("revoked") or "benign" in (node.get("indicator_types") or ())
    yield from [Entry(pattern, skipped=True)] if is_none or not made else made


class XmlTarget:
    """Takes the events of an XML parser: fields of an element are its attributes and the children that hold text."""

    def __init__(self, hint: str) -> None:
        self.made: list[Entry] = []
        self._hint = hint
        self._open: list[tuple[str, dict[str, str], list[tuple[str, str]]]] = []
        self._text: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins. Raises ValueError where there are too many around it."""
        if len(self._open) > DEPTH:
            raise ValueError("it is nested too deep")
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
        elif self._open and name in dict(parent := self._open[-1][2]):  # one more of a list
            self._row(name, attributes, [(name, own)])
        elif self._open:
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


class HtmlLines(HTMLParser):
    """Takes the rows of tables, and the lines of what is set as it was typed, out of HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
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
            self.lines += ["\t".join(" ".join(cell.split()) for cell in self._row) + "\n"] if any(self._row) else []
            self._row = None
        elif tag in ("pre", "script", "style"):
            self._typed = self._hidden = False

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        if self._row and not self._hidden:
            self._row[-1] += data
        elif self._typed:
            self.lines += data.splitlines(keepends=True)


def lines_of_html(page: str) -> list[str]:
    """The rows of the tables in a page, with a tab between cells, and the lines that are set as they were typed."""
    parser = HtmlLines()
    parser.feed(page)
    return parser.lines
