"""The handlers of services.cth as plain coroutines, without a broker; whole runs are in test_services.py."""

import gzip
import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from mqasync import ConfigurationError, Message, Out, Reject
from services.cth import act, collect, enrich
from services.cth.events import Enriched, Indicator, Record
from services.cth.parse import parse

TABLE = """\
first_seen,Domain,IP,comment
2026-01-02,,192.0.2.1,"one, two"
2026-01-03,"a[.]example.com",,
2026-01-04,,192.0.2.2,"never closed
2026-01-05,,192.0.2.3,x
"""
LINES = """\
{"ip": "192.0.2.1", "first_seen": "2026-01-02", "score": 7}
{"ip": null, "domain": "a.example.com", "date": null}
{"md5": "d41d8cd98f00b204e9800998ecf8427e"}
{torn
"""
EXPECTED: dict[str, list[tuple[str, str | None]]] = {
    TABLE: [
        ("192.0.2.1", "2026-01-02"),
        ("a[.]example.com", "2026-01-03"),
        ("192.0.2.2", "2026-01-04"),
        ("192.0.2.3", "2026-01-05"),
    ],
    LINES: [
        ("192.0.2.1", "2026-01-02"),
        ("a.example.com", None),
        ("d41d8cd98f00b204e9800998ecf8427e", None),
        ("{torn", None),
    ],
}


async def collected(feed: str | Path) -> list[tuple[str, str | None]]:
    return [(out.body.value, out.body.date) async for out in collect.collect(str(feed))]


def written(file: act.JsonLines) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file.path).read_text().splitlines()]


def message(id: str, exchange: str = "indicators") -> Message:
    return Message(body=b"", exchange=exchange, id=id)


class Server:
    """A web server on a free port: what it answers, by path, and what was sent to it."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.requests: list[tuple[str, str, Any]] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                recorder.requests.append((self.command, self.path, json.loads(body) if body else None))
                status, headers, content = recorder.answers.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, format: str, *arguments: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web() -> Iterator[Server]:
    web = Server()
    thread = threading.Thread(target=web.server.serve_forever)
    thread.start()
    yield web
    web.server.shutdown()
    web.server.server_close()
    thread.join()


@pytest.mark.parametrize("content", EXPECTED, ids=["csv", "json lines"])
@pytest.mark.parametrize("is_zipped", [False, True], ids=["plain", "gzip"])
async def test_a_file_and_a_url_give_the_same_records(
    content: str, is_zipped: bool, web: Server, tmp_path: Path
) -> None:
    data = gzip.compress(content.encode()) if is_zipped else content.encode()
    web.answers["/feed"] = (200, {"Content-Length": str(len(data))}, data)
    (tmp_path / "feed").write_bytes(data)
    assert await collected(tmp_path / "feed") == EXPECTED[content]
    assert await collected(f"{web.url}/feed") == EXPECTED[content]


async def test_a_quote_that_is_never_closed_costs_no_other_row_of_a_large_feed(tmp_path: Path) -> None:
    rows = [f"192.0.2.{number % 256},x" for number in range(20_000)]
    (tmp_path / "feed").write_text("\n".join(["ip,note", '192.0.2.1,"oops', *rows]))
    assert [value for value, _ in await collected(tmp_path / "feed")] == [
        "192.0.2.1",
        *(row.removesuffix(",x") for row in rows),
    ]


async def test_a_line_without_end_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    (tmp_path / "feed").write_text("a" * 25_000 + "\n192.0.2.1\n")
    assert [len(value) for value, _ in await collected(tmp_path / "feed")] == [10_000, 10_000, 5_000, 9]


async def test_a_feed_that_the_server_does_not_have_is_named(web: Server) -> None:
    with pytest.raises(OSError, match=rf"^the feed {web.url}/none cannot be read: HTTP Error 404"):
        await collected(f"{web.url}/none")


async def test_a_feed_that_ends_too_early_is_an_error_that_names_it(web: Server, tmp_path: Path) -> None:
    web.answers["/cut"] = (200, {"Content-Length": "30"}, b"192.0.2.1\n192.0.2.2\n")
    with pytest.raises(OSError, match=rf"^the feed {web.url}/cut cannot be read: it ended 10 bytes too early"):
        await collected(f"{web.url}/cut")
    zipped = tmp_path / "feed.gz"
    zipped.write_bytes(gzip.compress(b"192.0.2.1\n" * 1000)[:-10])
    with pytest.raises(OSError, match=rf"^the feed {zipped} cannot be read: "):
        await collected(zipped)


@pytest.mark.parametrize("field", ["allow", "watch"])
@pytest.mark.parametrize("entry", ["2001:db8::/129", "2001:db8::1/48", "10.0.0.0/33", "10.0.0.1/8", "http://a.example"])
def test_a_mistyped_network_in_a_list_is_refused_and_quoted(field: str, entry: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        enrich.Lists(enrich.Settings(**{field: (entry,)}))
    assert entry in str(caught.value)


def test_a_mistyped_domain_in_the_allow_list_is_refused_and_quoted() -> None:
    with pytest.raises(ConfigurationError, match=r"'\.example\.com' is not a domain"):
        enrich.Lists(enrich.Settings(allow=(".example.com",)))


@pytest.mark.parametrize("entry", ["bücher.example", "xn--bcher-kva.example", "BÜCHER.Example."])
def test_an_allowed_domain_may_be_written_in_any_form(entry: str) -> None:
    lists = enrich.Lists(enrich.Settings(allow=(entry,)))
    assert enrich.is_allowed(Indicator("domain", "www.xn--bcher-kva.example", "test"), None, lists)
    assert not enrich.is_allowed(Indicator("domain", "other-xn--bcher-kva.example", "test"), None, lists)


@pytest.mark.parametrize(
    ("network", "scope"),
    [
        ("203.0.113.0/25", "documentation"),
        ("203.0.0.0/8", "global"),
        ("10.0.0.0/8", "private"),
        ("10.0.0.0/7", "global"),
        ("100.64.0.0/10", "shared"),
        ("0.0.0.0/0", "global"),
        ("2001:db8:1::/48", "documentation"),
        ("2000::/3", "global"),
    ],
)
def test_a_network_has_a_scope_only_if_all_of_it_has(network: str, scope: str) -> None:
    assert enrich.scope(ip_network(network)) == scope


def test_what_was_seen_is_bounded_and_a_message_is_no_duplicate_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrich, "MAX_SEEN", 2)
    seen = enrich.Seen()
    one, two, three = (Indicator("ip", f"192.0.2.{number}", "test") for number in (1, 2, 3))
    assert not seen.is_duplicate(one, "a")
    assert not seen.is_duplicate(one, "a"), "the same message again"
    assert seen.is_duplicate(one, "b")
    assert not seen.is_duplicate(two, "c")
    assert not seen.is_duplicate(three, "d"), "now there is no room for the oldest"
    assert not seen.is_duplicate(one, "b")


async def test_the_sample_feed_has_the_counts_that_are_documented(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outs = [out async for out in collect.collect(collect.SAMPLE)]
    rejected: list[str] = []
    plain: list[Enriched] = []
    alerts: list[Enriched] = []
    async with enrich.lifespan(enrich.Settings()) as given:
        for out in outs:
            assert isinstance(out.body, Record)
            assert out.id
            try:
                indicator = await parse(out.body)
            except Reject:
                rejected.append(out.body.value)
                continue
            async for enriched in enrich.enrich(indicator, message(str(out.id)), **given):
                if isinstance(enriched, Out):
                    alerts.append(enriched.body)
                else:
                    plain.append(enriched)
    assert (len(outs), len({out.id for out in outs})) == (53, 53)
    assert rejected == ["not-an-indicator", "300.300.300.300"]
    assert (len(plain), len(alerts)) == (43, 5)
    assert "dropped: 5 duplicates, 3 on the allow list" in caplog.messages


async def test_a_batch_is_archived_as_json_lines_with_the_ids_of_its_messages(tmp_path: Path) -> None:
    events = [Enriched("ip", "192.0.2.1", "test", scope="documentation"), Enriched("domain", "a.example.com", "test")]
    file = act.JsonLines(str(tmp_path / "out.jsonl"))
    try:
        await act.archive(events, [message("1", "enriched"), message("2", "enriched")], file)
        lines = written(file)  # before it is closed
    finally:
        file.close()
    assert [(line["id"], line["kind"], line["value"]) for line in lines] == [
        ("1", "ip", "192.0.2.1"),
        ("2", "domain", "a.example.com"),
    ]


def test_an_output_path_that_cannot_be_written_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    path = str(tmp_path / "no" / "out.jsonl")
    with pytest.raises(ConfigurationError) as caught:
        act.JsonLines(path)
    assert str(caught.value) == f"the file {path!r} cannot be written: No such file or directory"


@pytest.fixture
def alerts_file(tmp_path: Path) -> Iterator[act.JsonLines]:
    file = act.JsonLines(str(tmp_path / "alerts.jsonl"))
    yield file
    file.close()


async def test_an_alert_is_posted_as_json_and_written_down(web: Server, alerts_file: act.JsonLines) -> None:
    web.answers["/alerts"] = (202, {}, b"")
    event = Enriched("ip", "198.51.100.4", "test", watched="198.51.100.0/25")
    await act.alert(event, message("1", "alerts"), alerts_file, act.Settings(post=f"{web.url}/alerts"))
    line = {"id": "1", "kind": "ip", "value": "198.51.100.4", "source": "test", "watched": "198.51.100.0/25"}
    assert web.requests == [("POST", "/alerts", line)]
    assert written(alerts_file) == [line]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 400, 503])
async def test_an_alert_that_is_not_taken_is_an_error_and_not_followed_elsewhere(
    status: int, web: Server, alerts_file: act.JsonLines
) -> None:
    web.answers["/alerts"] = (status, {"Location": "/login"}, b"")
    web.answers["/login"] = (200, {}, b"who are you?")
    event = Enriched("ip", "198.51.100.4", "test")
    with pytest.raises(OSError, match=rf"/alerts answered {status}$"):
        await act.alert(event, message("1", "alerts"), alerts_file, act.Settings(post=f"{web.url}/alerts"))
    assert [path for _, path, _ in web.requests] == ["/alerts"]
    assert written(alerts_file) == [], "what was not posted is not written down either"


async def test_a_server_that_is_not_there_is_an_error(alerts_file: act.JsonLines) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/alerts"
    event = Enriched("ip", "198.51.100.4", "test")
    with pytest.raises(OSError, match="refused"):
        await act.alert(event, message("1", "alerts"), alerts_file, act.Settings(post=url, timeout=5))
    assert written(alerts_file) == []
