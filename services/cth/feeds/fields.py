"""Fields: which of the named fields of a row, an object or an element are indicators; the values are values.py's.

What a field is called decides, what stands in it has to agree. A new name is a word more in WORDS or in OTHER.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from .values import HASHES, Found, as_address, classify

WORDS = {
    "ip": "ip ips ipv4 ipv6 ip4 ip6 addr ipaddr ipaddress ip4addr ip6addr cidr cidrs network networks subnet subnets"
    " netblock inetnum prefix address addresses range srcip dstip srcaddr dstaddr",
    "domain": "domain domains fqdn fqdns domainname dns site sites",
    "host": "host hosts hostname hostnames",
    "url": "url urls uri uris",
    "email": "email emails mail mails emailaddress sender",
    "asn": "asn asns asnumber autonomous",
    "hash": "hash hashes md5 sha1 sha224 sha256 sha384 sha512 md5sum sha1sum sha256sum filehash checksum fingerprint",
    "value": "indicator indicators ioc iocs value values data observable observables artifact artifacts content c2 c2s",
}
KIND_OF = {word: kind for kind, words in WORDS.items() for word in words.split()}
# What is never an indicator, whatever stands there: where it was found, who says so, what it is about
OTHER = """
    link links reference references ref refs report reports detail details tweet blog permalink evidence advisory
    analysis sandbox screenshot documentation license terms website homepage avatar image icon logo manual lookup
    contact abuse registrar registrant whois rdns ptr reverse ns nameserver nameservers mx referrer referer reporter
    author creator tag tags count id status description comment comments note notes title subject country owner org
    orgc organisation organization filename filepath path mutex regkey registry agent cve vulnerability yara sigma
    snort btc bitcoin xmr mac imphash ssdeep tlsh pehash impfuzzy telfhash authentihash vhash victim sensor version
    galaxy galaxycluster relatedevent eventreport shadowattribute text attachment target seen updated modified
    warninglist allowlist whitelist metadata source sha3
"""
DATE = """
    date dates dateadded datetime time timestamp seen firstseen lastseen added created discovered listingdate
    submission published detected observed valid day
"""
LATER = "last lastseen expires expiration until modified updated end online verification"
TYPED = "indicator ioc attribute observable artifact intel value data entity"
OTHERS, DATES, LATERS, TYPES = (frozenset(words.split()) for words in (OTHER, DATE, LATER, TYPED))
FITS = {
    **{kind: {"ip", "network"} for kind in ("ip", "network", "range")},
    **{kind: {"domain", "ip", "url", "network"} for kind in ("domain", "host", "url")},
    **{kind: {*HASHES.values()} for kind in ("hash", *HASHES.values())},
    **{kind: {kind} for kind in ("email", "asn")},
}
COMPOSITE = {"malware-sample": "filename|md5"}
EMPTY = frozenset(("", "-", "n/a", "na", "none", "null", "nil", "unknown", "?", "(empty)"))
MAX_EXTRA = 1_000  # characters of another column that travel along

Cell = str | Sequence[str]
Beside = Callable[..., dict[str, Any]]


class Entry(NamedTuple):
    """One value of a feed as it stands there, and what it was `found` to be; with nothing found it is refused.

    `skipped`: the feed itself says that it is none. `hint` is the kind that the feed says it has.
    """

    value: str
    hint: str = ""
    date: str = ""
    extra: Mapping[str, Any] = {}
    found: Sequence[Found] = ()
    skipped: bool = False


class Roles(NamedTuple):
    """The places of fields: values with their kinds, kinds, dates, ports, and both ends of a range."""

    values: list[tuple[int, str]]
    types: list[tuple[int, bool]]  # True: what is no known kind there is no indicator
    dates: list[int]
    ports: list[int]
    ends: list[int]
    flags: list[tuple[int, bool]]  # what makes an entry none: a false to_ids, a true deleted


@lru_cache(10_000)
def words(name: str) -> tuple[str, ...]:
    """The words in a name, in lower case: dst_ip, DstIP and "dst ip" have two."""
    name = re.sub(r"\b(sha)[-_ ](\d)", r"\1\2", name[:100], flags=re.IGNORECASE)
    name = re.sub(r"\bfile[-_ ]?(name|path)", r"file\1", name, flags=re.IGNORECASE)
    found: list[str] = []
    for part in re.findall(r"[^\W_]+", name):
        known = part.lower() in KIND_OF or part.lower() in OTHERS or part.lower() in DATES
        found += [part] if known else re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d*|[A-Z0-9]+", part) or [part]
    return tuple(word.lower() for word in found)


@lru_cache(10_000)
def kind_of(name: str) -> str:
    """The kind that a name says: of a column, a key, what stands in a column of types. "other": none; "": unknown."""
    found = words(re.split(r"\b(?:used|for|by)\b", name, maxsplit=1)[0])
    kinds = [KIND_OF[word] for word in found if word in KIND_OF]
    kind = next((kind for kind in ("email", "asn") if kind in kinds), kinds[0] if kinds else "")
    if found in (("as",), ("as", "number")):
        return "asn"
    others = OTHERS.intersection(found) - ({"source"} if kind == "ip" else set())
    return "other" if others else kind


def kind_of_any(type: str) -> str:
    """The kind of a type, or of a part of one that has several: filename|md5."""
    kinds = [kind_of(part) for part in COMPOSITE.get(type, type).split("|")]
    return next((kind for kind in kinds if kind not in ("", "other")), kinds[0])


@lru_cache(1_000)
def roles(names: tuple[str, ...]) -> Roles:
    """What each of these fields is for."""
    made = Roles([], [], [], [], [], [])
    later: list[int] = []
    for place, name in enumerate(names):
        found = words(name)
        if name.lower() in ("to_ids", "deleted", "revoked"):
            made.flags.append((place, name.lower() != "to_ids"))
        elif found in (("type",), ("kind",), ("itype",)) or (found[-1:] == ("type",) and TYPES.intersection(found)):
            made.types.append((place, len(found) > 1))
        elif DATES.intersection(found) and kind_of(name) not in ("ip", "url", "domain"):
            (later if LATERS.intersection(found) else made.dates).append(place)
        elif "port" in found:
            made.ports.append(place)
        elif {"start", "end", "first", "last", "begin"}.intersection(found) and kind_of(name) in ("ip", ""):
            made.ends.append(place)
        elif kind := kind_of(name).replace("other", ""):
            made.values.append((place, kind))
    made.dates.extend(later)
    return made


def entries(names: tuple[str, ...], cells: Sequence[Cell], default: str = "") -> Iterator[Entry]:
    """The indicators of one row, whose fields have these names; nothing where it has none.

    `default` is the kind of values whose field does not say one.
    """
    row = roles(names)
    if any((text(cells[place]).lower() in ("true", "1", "yes")) == bad for place, bad in row.flags if cells[place]):
        yield Entry("", skipped=True)
        return
    date = next((text(cells[place]) for place in row.dates if _is_there(text(cells[place]))), "")
    beside = partial(_beside, names, cells, row, date)
    if len(row.ends) == 2 and all(as_address(text(cells[place])) for place in row.ends):
        value = "-".join(text(cells[place]) for place in row.ends)
        yield Entry(value, "range", date, beside(*row.ends), classify(value))
        return
    for place, strict in row.types:
        type = text(cells[place])
        kind = kind_of_any(type)
        if kind == "other" or ((strict or row.flags) and type and not kind):
            yield Entry(type, skipped=True)
            return
        if kind:
            yield from _typed(COMPOSITE.get(type, type), row, cells, date, beside)
            return
    yield from _untyped(row, cells, default, date, beside)


def _typed(type: str, row: Roles, cells: Sequence[Cell], date: str, beside: Beside) -> Iterator[Entry]:
    """What stands beside its kind; what is not of that kind is refused."""
    places = [place for place, _ in sorted(row.values, key=lambda value: value[1] != "value")] or range(len(cells))
    for place in places:
        kinds, values = type.split("|"), text(cells[place]).split("|")
        pairs = list(zip(kinds, values, strict=True)) if len(kinds) == len(values) else [(type, text(cells[place]))]
        port = {kind: int(value) for kind, value in pairs if kind == "port" and value.isdecimal()}
        kept = [(value, kind_of(kind)) for kind, value in pairs if kind_of(kind) not in ("other", "")]
        if any(fitting(value, kind) for value, kind in kept):
            for value, kind in kept:
                yield Entry(value, kind, date, beside(place) | port, fitting(value, kind))
            return
    if row.values and text(cells[places[0]]):
        yield Entry(text(cells[places[0]]), kind_of_any(type), date)


def _untyped(row: Roles, cells: Sequence[Cell], default: str, date: str, beside: Beside) -> Iterator[Entry]:
    """What stands in fields that are named after kinds."""
    single = {kind for place, kind in row.values if isinstance(cell := cells[place], str) and _is_there(cell)}
    seen: set[tuple[str, str]] = set()
    before: set[str] = set()
    for place, kind in row.values:
        hint = default if kind == "value" else kind
        if not _is_about(kind, isinstance(cells[place], str), single, before):
            for value, found in values_in(cells[place], hint):
                new = [one for one in found if one[:2] not in seen]
                seen.update(one[:2] for one in new)
                if new or not found:
                    yield Entry(value, hint, date, beside(place), new)
        before |= {kind} if cells[place] else set()


def _is_about(kind: str, is_single: bool, single: set[str], before: set[str]) -> bool:
    """Whether a field tells of another: who owns an address and how to write to them, its names, a URL's host.

    `single` are the kinds of the fields with one value, `before` those of all fields in front of this one.
    """
    return {
        "email": "ip" in single,
        "asn": bool({"ip", "url", "hash"} & single or {"domain", "host"} & before),
        "host": "url" in single or "ip" in before & single,
        "domain": ("ip" in single and not is_single) or ("asn" in before and not {"ip", "url", "hash"} & single),
    }.get(kind, False)


def _beside(names: Sequence[str], cells: Sequence[Cell], row: Roles, date: str, *places: int) -> dict[str, Any]:
    """What travels along with the value at `places`: the port, and every other field with one text."""
    told = {*places, *(place for place, _ in (*row.types, *row.flags))}
    found: dict[str, Any] = {}
    for place, (name, cell) in enumerate(zip(names, cells, strict=False)):
        if isinstance(cell, str) and name and place not in told and cell != date and _is_there(cell):
            is_port = place in row.ports[:1] and cell.isdecimal()
            found["port" if is_port else name] = int(cell) if is_port else cell[:MAX_EXTRA]
    return found


def values_in(cell: Cell, hint: str) -> Iterator[tuple[str, list[Found]]]:
    """What stands in one field and fits there: one text, several in one, or a list; what else is in a list is none."""
    if not isinstance(cell, str):
        for one in cell:
            found = list(values_in(one, hint))
            yield from found or ([(one, [])] if hint and _is_there(one) else [])
    elif fits := fitting(cell, hint):
        yield cell, fits
    elif len(several := re.split(r"##comma##|[\s,;|]+", cell.strip())) > 1:
        made = [(part, fitting(part, hint)) for part in several if part]
        yield from made if all(fits for _, fits in made) else ()


def fitting(value: str, kind: str) -> list[Found]:
    """What `value` is, if that is what a field of this kind holds."""
    fits = FITS.get(kind)
    return [one for one in classify(value, kind) if fits is None or one.kind in fits]


def text(cell: Cell) -> str:
    """A field as one text."""
    return cell if isinstance(cell, str) else " ".join(cell)


def _is_there(cell: str) -> bool:
    return cell.lower() not in EMPTY
