"""Tables: rows with a delimiter, their header above them, in a comment or absent; what fields mean is fields.py's."""

import csv
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import urlsplit

from .dates import when
from .fields import Entry, entries, kind_of, roles
from .values import SCHEME, Found, classify

DELIMITERS = ",;\t|"
MOST = 0.8  # of the rows, where it takes most of them


class Table(NamedTuple):
    """How the rows of a table are read. `header` is the row that is no entry itself."""

    delimiter: str
    names: tuple[str, ...]
    header: Sequence[str] | None = None
    hint: str = ""

    def entries(self, line: str) -> list[Entry]:
        """The entries of one line."""
        return [] if (cells := split(line, self.delimiter)) == self.header else self.of(cells, line)

    def hits(self, rows: Sequence[list[str]]) -> int:
        """How many of these rows are understood."""
        made = (self.of([*row], "") for row in rows if row != self.header)
        return sum(any(entry.found or entry.skipped for entry in one) for one in made)

    def of(self, cells: list[str], line: str) -> list[Entry]:
        """The entries of one row; one that is refused, if it has none."""
        if not "".join(cells).strip("-:= "):
            return []
        names = self.names
        if len(names) != len(cells):
            names += tuple(f"column_{number + 1}" for number in range(len(names), len(cells)))
            cells += [""] * (len(names) - len(cells))
        return list(entries(names, cells, self.hint)) or [Entry(line.strip(), self.hint)]


def split(line: str, delimiter: str) -> list[str]:
    """The cells of one line. A quote that is never closed spoils its own row and not the rest of the feed."""
    if '"' in line:
        cells = next(csv.reader([line.strip()], delimiter=delimiter, skipinitialspace=True), [])
    else:
        cells = line.split(delimiter)
    cells = [cell.strip() for cell in cells]
    return cells[1:-1] if delimiter == "|" and len(cells) > 2 and cells[0] == cells[-1] == "" else cells


def recognise(
    lines: Sequence[str], comments: Sequence[str], columns: Sequence[str] = (), delimiter: str = "", hint: str = ""
) -> Table | None:
    """The table that these first lines are of, or None. `columns` and `delimiter` are known, if given."""
    found: list[tuple[tuple[bool, float, int], Table]] = []
    for one in delimiter or DELIMITERS:
        rows = [split(line, one) for line in lines]
        width, count = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
        if (width < 2 or count < len(rows) / 2) and not columns:
            continue
        table = layout([row for row in rows if len(row) == width], [split(line, one) for line in comments], columns)
        if not (columns or table.header or len(rows) > 1) and SCHEME.match(lines[0]):
            continue  # the only line is a URL, whatever it has in it
        hits = table.hits(rows)
        if hits or (is_named(table.names) and rows == [table.header]):
            found.append(((hits > 0, count / len(rows), width), table._replace(delimiter=one, hint=hint)))
    return max(found, default=(None, None), key=lambda pair: pair[0])[1]


def layout(rows: Sequence[list[str]], comments: Sequence[list[str]] = (), columns: Sequence[str] = ()) -> Table:
    """The names of the columns of these rows: as given, from a header, or after what stands in them."""
    header = next((row for row in rows[:1] if is_header(row, rows[1:])), None)
    body = rows[1:] if header else rows
    width = len(rows[0]) if rows else 0
    names = [*columns] or header or next((row for row in reversed(comments) if len(row) == width and is_named(row)), [])
    named = Table("", tuple(names), header)
    by_content = Table("", named_by_content(body, names or [""] * width), header)
    return named if columns or (names and named.hits(body) >= by_content.hits(body)) else by_content


def is_named(row: Sequence[str]) -> bool:
    """Whether these are names of columns one of which is known to hold indicators."""
    found = roles(tuple(row))
    return bool(found.values or len(found.ends) == 2) and all(row) and not any(map(classify, row))


def is_header(row: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: by names that are known, or by being other than the rows below."""
    if is_named([cell or "-" for cell in row]):
        return True
    words = all(cell and not any(map(str.isdigit, cell)) for cell in row) and not any(map(classify, row))
    return words and len({*row}) == len(row) and bool(others) and all(any(map(classify, other)) for other in others)


def named_by_content(rows: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[str, ...]:
    """Names for columns whose own say nothing."""
    made = [name or f"column_{number}" for number, name in enumerate(names, 1)]
    columns = [[row[place] for row in rows if place < len(row) and row[place]] for place in range(len(made))]
    found = [[next(iter(classify(cell)), None) for cell in column] for column in columns]
    free = [place for place, name in enumerate(made) if columns[place] and kind_of(name) != "other"]
    values = [place for place in free if sum(map(bool, found[place])) >= len(columns[place]) / 2]
    dates = [place for place in free if place not in values and all(map(when, columns[place]))]
    types = [
        place
        for place in free
        if place not in values + dates
        and sum(bool(kind_of(cell)) for cell in columns[place]) >= MOST * len(columns[place])
        and {kind_of(cell) for cell in columns[place]} - {"other"}
    ]
    if types:
        made[types[0]] = "type"
        values = sorted(values, key=lambda place: -_agreement(rows, types[0], place))[:1]
    else:
        values = [place for place in values if not _is_reference(place, values, found)]
    for place in dates[:1]:
        made[place] = "date"
    for place in values:
        made[place] = "value"
    if ends := _ends(rows, values):
        made[ends[0]], made[ends[1]] = "start", "end"
    return tuple(made)


def _agreement(rows: Sequence[Sequence[str]], types: int, place: int) -> int:
    """How often what stands there is of the kind that its row says."""
    made = ("type", "value")
    return sum(any(one.found for one in entries(made, (row[types], row[place]))) for row in rows)


def _is_reference(place: int, values: Sequence[int], found: Sequence[Sequence[Found | None]]) -> bool:
    """Whether this is one site, or URLs of it, that tells about the indicators beside it."""
    own = [one for one in found[place] if one]
    hosts = {urlsplit(one.value).hostname if one.kind == "url" else one.value for one in own}
    if place == values[0] or len(hosts) > 1 or {one.kind for one in own} not in ({"url"}, {"domain"}):
        return False
    others = {one.value for other in values if other != place for one in found[other] if one}
    return not hosts & others and (own[0].kind == "url" or len(own) > 1)


def _ends(rows: Sequence[Sequence[str]], values: Sequence[int]) -> tuple[int, int] | None:
    """Two columns that are the first and the last address of ranges, whose prefix is in the third."""
    for first, last in pairwise(values):
        if last == first + 1 and all(len(row) > last + 1 and _is_block(*row[first : last + 2]) for row in rows):
            return first, last
    return None


def _is_block(first: str, last: str, prefix: str) -> bool:
    found = classify(f"{first}-{last}")
    return len(found) == 1 and found[0].value.endswith(f"/{prefix}")
