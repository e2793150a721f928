"""Feeds: every form in which people publish them is read right, fetched within bounds, and spoken of.

feeds/NAME.txt is a small input in one form, feeds/NAME.expected.json what it says: [kind, value] pairs.
"""

import asyncio
import bz2
import gzip
import io
import json
import logging
import lzma
import re
import tarfile
import time
import traceback
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mqasync import ConfigurationError, Out
from services.cth import collect
from services.cth.collect import Feed
from services.cth.events import Record
from services.cth.feeds import documents, fetch, unpack
from services.cth.feeds.dates import when
from services.cth.feeds.fields import fitting
from services.cth.feeds.read import FORMATS
from services.cth.feeds.values import classify

from .commands import CommandLine

ROOT = Path(__file__).parent.parent
INPUTS = sorted((ROOT / "tests" / "feeds").glob("*.txt"))
DATA = ROOT.parent / "shared" / "data"
MD5 = "d41d8cd98f00b204e9800998ecf8427e"


def read(feed: Path | str, **form: Any) -> list[Record]:
    """The records of a file, the refused ones too."""
    with open(feed, "rb") as file:
        return list(collect.records(Feed(url=str(feed), **form), file))


def found(records: list[Record]) -> set[tuple[str, str]]:
    return {one[:2] for record in records for one in fitting(record.value, record.type)}


def refused(records: list[Record]) -> list[str]:
    return [record.value for record in records if not fitting(record.value, record.type)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "feed"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


Write = Callable[[str | bytes], Path]


async def collected(*feeds: Feed | str | Path, visits: Any = None, timeout: float = 30.0) -> list[Out]:
    """What the producer puts out for these feeds."""
    those = [feed if isinstance(feed, Feed) else Feed(url=str(feed)) for feed in feeds]
    return [out async for out in collect.collect(those, {} if visits is None else visits, timeout)]


# forms


@pytest.mark.parametrize("feed", INPUTS, ids=lambda path: path.stem)
def test_a_feed_in_any_form_gives_its_indicators_and_no_other(feed: Path) -> None:
    expected = json.loads(feed.with_suffix(".expected.json").read_text())["expected"]
    assert found(read(feed)) == {(kind, value) for kind, value in expected}


@pytest.mark.parametrize("feed", INPUTS, ids=lambda path: path.stem)
def test_a_feed_refuses_nothing_but_what_is_no_indicator(feed: Path) -> None:
    allowed = {
        "40-file-names": ["main.php", "tqPuZe.dat"],
        "99-report": ["invoice.xlsm"],
        "108-asciidoc": ["|`setup.exe`"],
    }
    assert [value for value in refused(read(feed)) if "." in value] == allowed.get(feed.stem, [])


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"NOT TESTED with the real feed: {DATA / name} is not there")
    return DATA / name


def is_name(text: str) -> bool:
    """A name as DNS can have it."""
    labels = text.lower().split(".")
    return len(text) <= 253 and all(re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", label) for label in labels)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("tweetfeed/tweetfeed-hosts.txt", r"^0\.0\.0\.0 (\S+)$"), ("tweetfeed/tweetfeed-adguard.txt", r"^\|\|(.+)\^$")],
)
def test_a_real_list_gives_every_name_that_can_be_one(name: str, pattern: str) -> None:
    names = re.findall(pattern, real(name).read_text(), re.MULTILINE)
    records = read(real(name))
    assert len(records) == len(names) == 4_875
    assert found(records) == {("domain", one.lower()) for one in names if is_name(one)}
    assert refused(records) == [one for one in names if not is_name(one)]
    assert len(refused(records)) == 2


def test_a_real_table_without_a_header_gives_what_its_column_of_types_says() -> None:
    rows = [line.split(",") for line in real("tweetfeed/tweetfeed-week.csv").read_text().splitlines()]
    kinds = Counter(row[2] for row in rows)
    records = read(real("tweetfeed/tweetfeed-week.csv"))
    understood = [one.kind for record in records for one in fitting(record.value, record.type)]
    assert Counter(understood) == kinds - Counter(["domain"])
    assert refused(records) == ["nx_2026073083242.zip"], "a file's name"
    assert {record.date for record in records[:2]} == {"2026-08-16 01:04:58"}


def test_a_real_misp_event_and_a_real_stix_bundle_are_read_completely() -> None:
    event = json.loads(real("tweetfeed/tweetfeed-misp.json").read_text())["Event"]
    attributes = [one for one in event["Attribute"] if one["to_ids"]]
    records = read(real("tweetfeed/tweetfeed-misp.json"))
    assert [record.value for record in records] == [one["value"] for one in attributes]
    assert {record.extra["info"] for record in records} == {event["info"]}
    bundle = json.loads(real("tweetfeed/tweetfeed-stix-today.json").read_text())["objects"]
    patterns = [one["pattern"] for one in bundle if one["type"] == "indicator"]
    records = read(real("tweetfeed/tweetfeed-stix-today.json"))
    assert [record.value for record in records] == [one.split("'")[-2] for one in patterns]
    assert not refused(records)


def test_a_real_list_with_counts_is_read_completely_with_its_counts() -> None:
    lines = [line.split("\t") for line in real("ipsum.txt").read_text().splitlines() if line[:1] != "#"]
    records = read(real("ipsum.txt"))
    assert [record.value for record in records] == [address for address, _ in lines]
    assert [record.extra["number of (black)lists"] for record in records[:100]] == [count for _, count in lines[:100]]


# form given


@pytest.mark.parametrize(
    ("content", "form", "expected"),
    [
        ("1.2.3.4\tx\nc2.example.com\ty\n", {"format": "list"}, {("ip", "1.2.3.4"), ("domain", "c2.example.com")}),
        ("192.0.2.53 c2.example.com\n", {"format": "hosts"}, {("domain", "c2.example.com")}),
        ("x~192.0.2.7\ny~192.0.2.8\n", {"delimiter": "~"}, {("ip", "192.0.2.7"), ("ip", "192.0.2.8")}),
        ("a.example,b.example\n", {"columns": ["", "domain"]}, {("domain", "b.example")}),
        ("64496\n64511\n", {"type": "asn"}, {("asn", "AS64496"), ("asn", "AS64511")}),
        ("3221225991\n", {"type": "ip"}, {("ip", "192.0.2.7")}),
        ("evil.zip\nmain.php\n", {"type": "domain"}, {("domain", "evil.zip"), ("domain", "main.php")}),
    ],
)
def test_what_cannot_be_guessed_can_be_said(
    content: str, form: dict[str, Any], expected: set[tuple[str, str]], write: Write
) -> None:
    assert found(read(write(content), **form)) == expected


MISTAKES = {
    "format: hots": f"format is 'hots'; it takes {', '.join(FORMATS)}",
    "type: adress": "type is 'adress'; it takes ip, network, domain, url, email, asn, md5, sha1, sha224",
    "delimiter: '::'": "delimiter is '::'; it takes one character",
    "columns: [id, note]": "columns is ['id', 'note']; one of them must be an indicator: value, ip, network, domain",
    "colums: [ip]": "a feed has no key 'colums'; valid keys: format, columns, delimiter, type, url, name, provider",
    "columns: ip": "Expected `array`, got `str`",
}


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_description_of_a_feed_is_one_sentence(mistake: str, command: str, cli: CommandLine) -> None:
    cli.environment["PYTHONPATH"] = str(ROOT)
    cli.file("feed.txt", "192.0.2.1\n")
    cli.file("config.yml", f"services: {{services.cth.collect: {{feeds: [{{url: feed.txt, {mistake}}}]}}}}")
    done = cli.run(command, "services.cth")
    assert done.returncode == 2
    assert MISTAKES[mistake] in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# containers


CONTENT = "192.0.2.1\nc2.example.com # \N{LATIN SMALL LETTER U WITH DIAERESIS}\n"


def zipped(**members: bytes) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return file.getvalue()


def tarred(content: bytes) -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            info = tarfile.TarInfo("feed.txt")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        return file.getvalue()


PACKERS = [gzip.compress, bz2.compress, lzma.compress, lambda data: zipped(a=data)]


@pytest.mark.parametrize("pack", [bytes, tarred, *PACKERS])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_container_and_an_encoding_are_told_by_their_first_bytes(
    pack: Callable[[bytes], bytes], encoding: str, write: Write
) -> None:
    packed = pack(CONTENT.encode(encoding))
    for content in (packed, gzip.compress(packed)):
        assert found(read(write(content))) == {("ip", "192.0.2.1"), ("domain", "c2.example.com")}


def test_each_member_of_a_zip_file_is_a_feed_of_its_own(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = write(zipped(a=b"ip;x\n192.0.2.1;y\n", b=b"0.0.0.0 c2.example.com\n"))
    assert {(record.value, record.source) for record in read(path)} == {
        ("192.0.2.1", f"{path}/a"),
        ("c2.example.com", f"{path}/b"),
    }
    assert [f"{path}/{name}: " in message for name, message in zip("ab", caplog.messages, strict=True)] == [True, True]


def test_bytes_that_are_no_text_are_replaced_and_said(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    assert found(read(write(b"192.0.2.1 # caf\xe9\n192.0.2.2\n"))) == {("ip", "192.0.2.1"), ("ip", "192.0.2.2")}
    assert "1 lines had bytes that are not text" in caplog.text


BROKEN = {
    "cut off": gzip.compress(b"192.0.2.1\n" * 1000)[:-10],
    "damaged": gzip.compress(b"192.0.2.1\n" * 1000)[:20] + b"xxxxxxxxxxxx",
    "no zip at all": b"PK\x03\x04xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "too deep": gzip.compress(gzip.compress(gzip.compress(gzip.compress(b"192.0.2.1\n")))),
}


@pytest.mark.parametrize("content", BROKEN)
async def test_a_container_that_cannot_be_unpacked_is_an_error_that_names_the_feed(content: str, write: Write) -> None:
    feed = write(BROKEN[content])
    with pytest.raises(OSError, match=rf"^the feed {feed} cannot be read: \S+"):
        await collected(feed)


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("filling", [b"\0", b"192.0.2.1\n"])
async def test_a_bomb_is_an_error_and_takes_no_memory(
    pack: Callable[[bytes], bytes], filling: bytes, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "FREE_BYTES", 100_000)
    monkeypatch.setattr(unpack, "MAX_RATIO", 10)
    feed = write(pack(filling * (30_000_000 // len(filling))))
    tracemalloc.start()
    try:
        with pytest.raises((OSError, ConfigurationError), match=r"unpacks to more than [\d,]+ bytes|is an indicator"):
            async for _ in collect.collect([Feed(url=str(feed))], {}, 30.0):
                pass
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_feed(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        with open(tmp_path / "feed", "w") as file:
            file.writelines(f"0.0.0.0 c{number}.example.com\n" for number in range(lines))
        tracemalloc.start()
        try:
            with open(tmp_path / "feed", "rb") as file:
                count = sum(1 for _ in collect.records(Feed(url=str(tmp_path / "feed")), file))
            assert count == lines
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1_000)
    assert peak(40_000) < peak(4_000) * 1.2 + 100_000


async def test_a_line_without_end_is_read_in_bounded_pieces(write: Write) -> None:
    feed = write("192.0.2.1\n" + "a" * 25_000 + "\n192.0.2.2\n")
    assert [len(out.body.value) for out in await collected(feed)] == [9, 10_000, 10_000, 5_000, 9]


def test_a_quote_that_is_never_closed_costs_no_other_row(write: Write) -> None:
    rows = [f"192.0.2.{number % 256},x" for number in range(20_000)]
    records = read(write("\n".join(["ip,note", '192.0.2.1,"oops', *rows])))
    assert [record.value for record in records] == ["192.0.2.1", *(row.removesuffix(",x") for row in rows)]


@pytest.mark.parametrize("line", ["[" * 10_000, "(" * 9_999, "a." * 5_000, "1-" * 5_000, "- " * 5_000, "\\" * 9_999])
@pytest.mark.parametrize(
    "around", ["{}", "||{}", "http://{}", "alert tcp any any -> any any ({}", "a:{}:1.2.3.4 -", "x CNAME {}"]
)
def test_no_line_takes_long(line: str, around: str, write: Write) -> None:
    feed = write("192.0.2.1\n" + 20 * (around.format(line) + "\n"))
    started = time.process_time()
    read(feed)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "pattern", ["a" * 100_000, "a:" * 50_000, "'" * 100_000, "a:b = 1" + "1" * 99_000, "a:b IN (" * 9_999]
)
def test_no_pattern_takes_long(pattern: str, write: Write) -> None:
    bundle = {"type": "bundle", "objects": [{"type": "indicator", "pattern": f"[{pattern}]"}]}
    feed = write(json.dumps(bundle))
    started = time.process_time()
    assert read(feed) == []
    assert time.process_time() - started < 5


def test_what_a_document_calls_an_indicator_and_is_none_is_refused(write: Write) -> None:
    for content in (
        '[{"ip": "192.0.2.1"}, {"ip": "300.300.300.300"}]',
        '[{"ip": "192.0.2.1"}, {"type": "ip-dst", "value": "300.300.300.300"}]',
        '{"ips": ["192.0.2.1", "300.300.300.300"]}',
        '{"type": "indicator", "pattern": "[ipv4-addr:value IN (\'192.0.2.1\', \'300.300.300.300\')]"}',
        '["192.0.2.1", "300.300.300.300"]',
        '{"ip": "192.0.2.1"}\n{"ip": torn',
    ):
        records = read(write(content))
        assert (len(records), found(records)) == (2, {("ip", "192.0.2.1")})


def test_json_that_is_nested_too_deep_or_broken_is_an_error(write: Write) -> None:
    for content in ("[" * 100_000, '{"a": ' * 100_000, '[{"ip": "192.0.2.1"}, {"ip"', "{"):
        with pytest.raises((OSError, ConfigurationError)):
            read(write(content))


def test_a_document_that_is_too_large_is_an_error(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT", 1_000)
    with pytest.raises(OSError, match="a document of more than 1,000 characters"):
        read(write('[\n"192.0.2.1",\n' + '"192.0.2.1",\n' * 1_000 + '"192.0.2.1"]'))


XML = '<?xml version="1.0"?>{}<ioc><IndicatorItem><Content type="md5">{}</Content></IndicatorItem></ioc>'
ENTITIES = '<!DOCTYPE x [<!ENTITY a "{}"><!ENTITY b "&a;&a;&a;&a;">]>'.format("0" * 32)
EXTERNAL = '<!DOCTYPE x [<!ENTITY b SYSTEM "file:///etc/hostname">]>'


def test_xml_that_is_nested_deep_or_has_much_of_the_same_takes_neither_long_nor_all_memory(write: Write) -> None:
    started = time.process_time()
    with pytest.raises(OSError, match="it is nested too deep"):
        read(write("<a><ip>192.0.2.1</ip>" * 50_000))
    many = "".join(f"<ip>192.0.{number // 250}.{number % 250}</ip>" for number in range(20_000))
    assert len(read(write(f"<list>{many}</list>"))) == 20_000
    assert time.process_time() - started < 10


@pytest.mark.parametrize("declaration", [ENTITIES, EXTERNAL])
def test_entities_of_xml_are_refused(declaration: str, write: Write) -> None:
    with pytest.raises(OSError, match="it begins like XML, but: EntitiesForbidden"):
        read(write(XML.format(declaration, "&b;")))


# values and dates


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("192.0.2.1", "ip", "192.0.2.1"),
        ("192[.]0(.)2[dot]1", "ip", "192.0.2.1"),
        ("192.0.2[.7", "ip", "192.0.2.7"),
        ("192.0.2.1:443", "ip", "192.0.2.1"),
        ("192.0.2.1[:]443", "ip", "192.0.2.1"),
        ("001.002.003.004", "ip", "1.2.3.4"),
        ("2001:0DB8:0::1", "ip", "2001:db8::1"),
        ("2001[:]db8::1", "ip", "2001:db8::1"),
        ("[2001:db8::7]:443", "ip", "2001:db8::7"),
        ("::ffff:192.0.2.7", "ip", "192.0.2.7"),
        ("192.0.2.7/32", "ip", "192.0.2.7"),
        ("192.0.2.0/24", "network", "192.0.2.0/24"),
        ("192.0.2.77/24", "network", "192.0.2.0/24"),
        ("192.0.2.0/255.255.255.0", "network", "192.0.2.0/24"),
        ("192.0.2.0 - 192.0.2.255", "network", "192.0.2.0/24"),
        ("AS64496", "asn", "AS64496"),
        ("ASN 64496", "asn", "AS64496"),
        ("Evil[.]Example.COM.", "domain", "evil.example.com"),
        ("c2{dot}example[dot]com", "domain", "c2.example.com"),
        (r"c2\.example\.com", "domain", "c2.example.com"),
        ("*.c2.example.com", "domain", "c2.example.com"),
        ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", "domain", "xn--bcher-kva.example"),
        ("fa\N{LATIN SMALL LETTER SHARP S}.example", "domain", "xn--fa-hia.example"),
        ("evil\N{IDEOGRAPHIC FULL STOP}example", "domain", "evil.example"),
        ("i\N{HEAVY BLACK HEART}.example", "domain", "xn--i-7iq.example"),
        ("_dmarc.example.com", "domain", "_dmarc.example.com"),
        ("c2.example.com:8080", "domain", "c2.example.com"),
        ("abuse [at] example [dot] com", "email", "abuse@example.com"),
        ("mailto:Some.One@Example.COM", "email", "Some.One@example.com"),
        ("hxxps[://]evil[.]example/Path?a=B", "url", "https://evil.example/Path?a=B"),
        ("http[:]//evil.example/b", "url", "http://evil.example/b"),
        ("h**p://evil.example/", "url", "http://evil.example/"),
        ("meow://evil.example/", "url", "http://evil.example/"),
        (r"http:\\evil.example\a", "url", "http://evil.example/a"),
        (r"http://innocent.example\@evil.example/", "url", "http://innocent.example/@evil.example/"),
        ("HXXP://user:password@Evil.Example:8080/", "url", "http://evil.example:8080/"),
        ("http://[2001:DB8::1]:81/x", "url", "http://[2001:db8::1]:81/x"),
        ('"http://evil.example/a".', "url", "http://evil.example/a"),
        ("http://evil.example/a[1].php", "url", "http://evil.example/a[1].php"),
        ("http://3221225991/", "url", "http://192.0.2.7/"),
        ("http://0xc0.0.0x207/", "url", "http://192.0.2.7/"),
        ("http://[::ffff:192.0.2.7]/", "url", "http://192.0.2.7/"),
        ("http://%65vil.example./", "url", "http://evil.example/"),
        ("tcp://192.0.2.7:4443", "url", "tcp://192.0.2.7:4443"),
        ("evil.example/gate.php", "url", "http://evil.example/gate.php"),
        (MD5, "md5", MD5),
        (f"MD5: {MD5.upper()}", "md5", MD5),
        (":".join(["aB"] * 20), "sha1", "ab" * 20),
        ("A" * 40, "sha1", "a" * 40),
        ("0" * 64, "sha256", "0" * 64),
        ("f" * 128, "sha512", "f" * 128),
    ],
)
def test_an_indicator_is_classified_and_normalised(text: str, kind: str, value: str) -> None:
    assert [one[:2] for one in classify(text)] == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        *("", "no indicator", "300.300.300.300", "http://", "http://x/", "localhost", "1.2.3", "a" * 5000, "main.php"),
        *("and/or", "10.0.0.0/33", "win.cobalt_strike", "application/x-dosexec", "C:\\x.com", "@evil.example", "N/A"),
        *(
            "http://evil.example:99999/",
            "evil..example",
            "-.example",
            "192.0.2.9-192.0.2.1",
            "AS99999999999",
            "1.2.3.4.5",
        ),
    ],
)
def test_what_is_no_indicator_is_none(text: str) -> None:
    assert classify(text) == []


@pytest.mark.parametrize("text", ["192.0.2.1:8443", "c2.example.com:8443", "http://c2.example.com:8443/", "[::1]:8443"])
def test_a_port_travels_along(text: str) -> None:
    assert [one.port for one in classify(text)] == [8443]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-04-14", "2026-04-14T00:00:00"),
        ("2026-04-14 16:02:21", "2026-04-14T16:02:21"),
        ("2026-04-14 16:02:21 UTC", "2026-04-14T16:02:21"),
        ("2026-04-14T16:02:21.5Z", "2026-04-14T16:02:21.5"),
        ("2026-04-14T18:02:21+02:00", "2026-04-14T16:02:21"),
        ("2026/04/14 16:02:21", "2026-04-14T16:02:21"),
        ("14.04.2026", "2026-04-14T00:00:00"),
        ("14-04-2026", "2026-04-14T00:00:00"),
        ("04/14/2026", "2026-04-14T00:00:00"),
        ("14/04/2026", "2026-04-14T00:00:00"),
        ("20260414", "2026-04-14T00:00:00"),
        ("14 April 2026", "2026-04-14T00:00:00"),
        ("Apr 14, 2026", "2026-04-14T00:00:00"),
        ("1776182541", "2026-04-14T16:02:21"),
        ("1776182541000", "2026-04-14T16:02:21"),
        ("Tue, 14 Apr 2026 18:02:21 +0200", "2026-04-14T16:02:21"),
    ],
)
def test_a_date_is_read_in_the_forms_of_feeds(text: str, moment: str) -> None:
    assert when(text) == datetime.fromisoformat(moment).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        *("", "last summer", "65", "0", "0001-01-01", "0000-00-00 00:00:00", "9999-12-31", "03/04/2026", "99999999999"),
        *("2026-13-01", "1" * 50, "Mon", "2026", "14/14/2026"),
    ],
)
def test_what_is_no_date_is_none(text: str) -> None:
    assert when(text) is None


# what travels along


def test_every_other_column_and_the_port_travel_along(write: Write) -> None:
    (record,) = read(
        write("first_seen,dst_ip,dst_port,malware\n2026-04-14,192.0.2.7,443,Emotet\n"), name="x", provider="y"
    )
    assert (record.date, record.feed, record.provider) == ("2026-04-14", "x", "y")
    assert record.extra == {"port": 443, "malware": "Emotet"}
    (record,) = read(write("192.0.2.7;65;seen twice\n"), format="list")
    assert record.extra == {"column_2": "65", "column_3": "seen", "column_4": "twice"}


async def test_reading_a_feed_again_repeats_the_ids(write: Write) -> None:
    feed = write("192.0.2.1\n192.0.2.2\n192.0.2.1\n")
    first = [out.id for out in await collected(feed)]
    assert len(set(first)) == 3
    assert [out.id for out in await collected(feed)] == first


# speech


def test_the_end_of_a_feed_says_what_was_in_it(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    feed = write("192.0.2.1\n192.0.2.2\nmain.php\nc2.example.com\n")
    read(feed)
    assert caplog.messages == [f"the feed {feed}: 4 lines, indicators: 3 (2 ip, 1 domain); 1 refused, 0 skipped"]


def test_a_feed_in_which_nothing_is_an_indicator_is_one_error_and_puts_out_nothing(cli: CommandLine) -> None:
    cli.environment["PYTHONPATH"] = str(ROOT)
    cli.file("feed.txt", "Dear customer,\nyour subscription has ended\n" * 200 + "192.0.2.1\n")
    cli.file("config.yml", "services: {services.cth.collect: {feed: feed.txt}}")
    done = cli.run("run", "services.cth", "--until-idle")
    assert done.returncode == 2
    assert (
        "nothing in the feed feed.txt is an indicator; it begins with 'Dear customer,'" in done.stderr.splitlines()[-1]
    )
    assert "Traceback" not in done.stderr
    assert json.loads(cli.run("status", "services.cth", "--json").stdout)["queues"][0]["waiting"] == 0


@pytest.mark.parametrize("content", ["", "# nothing today\n", "ip,first_seen\n", "[]", '{"data": []}', "{}"])
def test_a_feed_that_is_empty_is_no_error(content: str, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert read(write(content)) == []
    assert "indicators: 0; 0 refused" in caplog.text


def test_a_feed_that_is_nearly_all_one_value_is_warned_of(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    read(write("\n".join(f"192.0.2.{number}" for number in range(50))))
    assert not caplog.messages
    read(write("192.0.2.53\n" * 95 + "\n".join(f"192.0.2.{number}" for number in range(5))))
    assert "nearly all of it is 192.0.2.53; is it read correctly?" in caplog.text


def test_a_date_that_is_none_is_said(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    read(write("date,ip\n2026-04-14,192.0.2.1\n0001-01-01,192.0.2.2\nsoon,192.0.2.3\n"))
    assert "2 dates cannot be read, the first is '0001-01-01'" in caplog.text


async def test_one_feed_that_cannot_be_read_does_not_hold_up_the_others(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(BROKEN["cut off"])
    good, got = write("192.0.2.1\n"), []
    with pytest.raises(OSError, match=rf"the feed {broken} cannot be read"):
        async for out in collect.collect([Feed(url=str(broken)), Feed(url=str(good))], {}, 30.0):
            got.append(out.body.value)
    assert got[-1] == "192.0.2.1"
    assert f"the feed {broken} cannot be read" in caplog.text


async def test_a_file_that_has_not_changed_is_not_read_again(write: Write) -> None:
    feed = write("192.0.2.1\n")
    visits: dict[str, fetch.Visit] = {}
    assert len(await collected(feed, visits=visits)) == 1
    assert await collected(feed, visits=visits) == []
    write("192.0.2.1\n192.0.2.2\n")
    assert len(await collected(feed, visits=visits)) == 2


# fetching

Handler = Callable[[web.BaseRequest], Any]


class Server:
    """A real web server: `handle` answers, `requests` is what came."""

    def __init__(self) -> None:
        self.requests: list[web.BaseRequest] = []
        self.handle: Handler = lambda request: web.Response(text="192.0.2.1\n")
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        answer = self.handle(request)
        return answer if isinstance(answer, web.StreamResponse) else await answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    runner = web.ServerRunner(web.Server(server.answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/feed"
    yield server
    await runner.cleanup()


def sent(content: bytes, request: web.BaseRequest) -> web.Response:
    return web.Response(body=content)


async def test_a_url_gives_the_same_as_a_file_and_says_who_asks(server: Server, write: Write) -> None:
    for content in (b"192.0.2.1\n", gzip.compress(b"192.0.2.1\n"), zipped(a=b"192.0.2.1\n")):
        server.handle = partial(sent, content)
        assert [out.body.value for out in await collected(server.url)] == ["192.0.2.1"]
    assert server.requests[0].headers["User-Agent"].startswith("mqasync/")


async def test_an_answer_that_is_packed_on_its_way_is_unpacked(server: Server) -> None:
    packed = gzip.compress(b"192.0.2.1\n")
    server.handle = lambda request: web.Response(body=packed, headers={"Content-Encoding": "gzip"})
    assert len(await collected(server.url)) == 1
    server.handle = lambda request: web.Response(body=packed, headers={"Content-Encoding": "br"})
    with pytest.raises(OSError, match="the server sent it as 'br', which was not asked for"):
        await collected(server.url)


@pytest.mark.parametrize(("answered", "asked"), [("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since")])
async def test_what_has_not_changed_is_not_sent_again(server: Server, answered: str, asked: str) -> None:
    def handle(request: web.BaseRequest) -> web.Response:
        if request.headers.get(asked) == '"1"':
            return web.Response(status=304)
        return web.Response(text="192.0.2.1\n", headers={answered: '"1"'})

    server.handle = handle
    visits: dict[str, fetch.Visit] = {}
    assert len(await collected(server.url, visits=visits)) == 1
    assert await collected(server.url, visits=visits) == []
    assert [asked in request.headers for request in server.requests] == [False, True]


async def test_a_feed_whose_records_were_not_all_put_out_is_asked_for_again(server: Server) -> None:
    server.handle = lambda request: web.Response(text="192.0.2.1\n192.0.2.2\n", headers={"ETag": '"1"'})
    visits: dict[str, fetch.Visit] = {}
    async for _ in collect.collect([Feed(url=server.url)], visits, 30.0):
        break
    assert visits[server.url] == fetch.Visit()


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_wants_to_be_left_alone_is_left_alone(server: Server, status: int) -> None:
    server.handle = lambda request: web.Response(status=status, headers={"Retry-After": "60"})
    visits: dict[str, fetch.Visit] = {}
    with pytest.raises(OSError, match=f"HTTP status {status}"):
        await collected(server.url, visits=visits)
    with pytest.raises(OSError, match=r"the server asks for a pause of (60|59) s"):
        await collected(server.url, visits=visits)
    assert len(server.requests) == 1
    visits[server.url].not_before = 0.0
    server.handle = lambda request: web.Response(text="192.0.2.1\n")
    assert len(await collected(server.url, visits=visits)) == 1


@pytest.mark.parametrize("text", ["", "soon", "-5", "Tue, 14 Apr 2020 18:02:21 GMT"])
async def test_a_retry_after_that_is_none_or_past_holds_nobody_up(server: Server, text: str) -> None:
    server.handle = lambda request: web.Response(status=503, headers={"Retry-After": text})
    visits: dict[str, fetch.Visit] = {}
    for _ in range(2):
        with pytest.raises(OSError, match="HTTP status 503"):
            await collected(server.url, visits=visits)


async def test_a_feed_that_the_server_does_not_have_is_named(server: Server) -> None:
    server.handle = lambda request: web.Response(status=404)
    with pytest.raises(OSError, match=rf"^the feed {server.url} cannot be read: HTTP status 404"):
        await collected(server.url)


async def test_a_feed_that_ends_too_early_is_an_error(server: Server) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "30"})
        await answer.prepare(request)
        await answer.write(b"192.0.2.1\n192.0.2.2\n")
        assert request.transport
        request.transport.close()
        return answer

    server.handle = handle
    with pytest.raises(OSError, match=rf"^the feed {server.url} cannot be read: "):
        await collected(server.url)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/feed", "gopher://127.0.0.1/"])
async def test_a_redirect_goes_to_http_only(server: Server, target: str) -> None:
    server.handle = lambda request: web.Response(status=302, headers={"Location": target})
    with pytest.raises(OSError, match=rf"^the feed {server.url} cannot be read: "):
        await collected(server.url)


async def test_no_key_in_a_url_is_told(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    url = server.url.replace("://", "://user:pass-word@") + "?key=se-cret"
    assert [out.body.source for out in await collected(url)] == [server.url]
    server.handle = lambda request: web.Response(status=302, headers={"Location": str(request.url)})
    with pytest.raises(OSError, match="cannot be read: TooManyRedirects") as caught:
        await collected(url)
    said = caplog.text + "".join(traceback.format_exception(caught.value))
    assert not re.search("pass-word|se-cret", said)


async def test_a_redirect_is_followed(server: Server) -> None:
    def handle(request: web.BaseRequest) -> web.Response:
        if request.path == "/feed":
            return web.Response(status=301, headers={"Location": "/moved"})
        return web.Response(text="192.0.2.1\n")

    server.handle = handle
    assert len(await collected(server.url)) == 1


async def test_a_server_that_never_ends_is_an_error_in_time(server: Server) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:  # each read is answered in time, the whole is not
            await answer.write(b"192.0.2.1\n")
            await asyncio.sleep(0.05)

    server.handle = handle
    with pytest.raises(OSError, match=r"cannot be read: it took more than 0\.5 s"):
        await collected(server.url, timeout=0.5)


async def test_a_feed_that_is_too_large_is_an_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 1_000)
    server.handle = lambda request: web.Response(text="192.0.2.1\n" * 1_000)
    with pytest.raises(OSError, match="it has more than 1,000 bytes"):
        await collected(server.url)


async def test_a_proxy_from_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/feed"))
    assert len(await collected("http://feeds.example.com/list.txt")) == 1
    assert server.requests[0].headers["Host"] == "feeds.example.com"


async def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match=r"^the feed http://127\.0\.0\.1:9/x cannot be read: "):
        await collected("http://127.0.0.1:9/x")
