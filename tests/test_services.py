"""The services that ship with mqasync: their handlers as plain coroutines, and whole runs as real processes."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from mqasync import Message, Out, Reject
from mqasync.testing import StartService
from services.cth import act, collect, enrich
from services.cth.events import Enriched, Indicator, Record
from services.cth.parse import classify, parse

ROOT = Path(__file__).parent.parent
IPSUM = ROOT.parent / "shared" / "data" / "ipsum.txt"
RUN = [sys.executable, "-m", "mqasync", "run"]


def run(*arguments: str, cwd: Path, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """A whole `mqasync run ... --until-idle`; its output is shown when the test fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MQASYNC_LOG": "human"}
    command = [*RUN, *arguments, "--until-idle"]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def collected(path: Path) -> list[tuple[str, str | None]]:
    return [(out.body.value, out.body.date) async for out in collect.collect(str(path))]


def test_hello_prints_its_greetings(tmp_path: Path) -> None:
    done = run("services.hello", cwd=tmp_path)
    assert done.stdout == "Hello, Ada!\nHello, Grace!\nHello, Edsger!\n"


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("192.0.2.1", "ip", "192.0.2.1"),
        ("192[.]0(.)2[dot]1", "ip", "192.0.2.1"),
        ("2001:0DB8:0::1", "ip", "2001:db8::1"),
        ("2001[:]db8::1", "ip", "2001:db8::1"),
        ("192.0.2.0/24", "network", "192.0.2.0/24"),
        ("192.0.2.77/24", "network", "192.0.2.0/24"),
        ("Evil[.]Example.COM.", "domain", "evil.example.com"),
        ("bücher.example", "domain", "xn--bcher-kva.example"),
        ("_dmarc.example.com", "domain", "_dmarc.example.com"),
        ("hxxps[://]evil[.]example/Path?a=B", "url", "https://evil.example/Path?a=B"),
        ("HXXP://user:password@Evil.Example:8080/", "url", "http://evil.example:8080/"),
        ("http://[2001:DB8::1]:81/x", "url", "http://[2001:db8::1]:81/x"),
        ("d41d8cd98f00b204e9800998ecf8427e", "md5", "d41d8cd98f00b204e9800998ecf8427e"),
        ("A" * 40, "sha1", "a" * 40),
        ("0" * 64, "sha256", "0" * 64),
        ("f" * 128, "sha512", "f" * 128),
    ],
)
def test_an_indicator_is_classified_and_normalised(text: str, kind: str, value: str) -> None:
    assert classify(text) == (kind, value)


@pytest.mark.parametrize("text", ["", "no indicator", "300.300.300.300", "http://", "localhost", "1.2.3", "a" * 5000])
async def test_what_is_no_indicator_is_rejected_and_quoted(text: str) -> None:
    with pytest.raises(Reject) as caught:
        await parse(Record(text, "test"))
    assert text[:50] in str(caught.value)
    assert len(str(caught.value)) < 200


async def test_text_csv_and_json_lines_are_collected_zipped_or_not(tmp_path: Path) -> None:
    text = "# comment\n; more\n// more\n\n192.0.2.1\t9\n192.0.2.2  # seen today\nhttp://example.com/#frag\n"
    table = 'First_Seen,IOC,Note\n2026-01-02,192.0.2.1,"a, b"\n2026-01-03,"hxxp://example.com/a,b",x\nshort\n'
    lines = '{"indicator": "192.0.2.1", "date": "2026-01-02"}\n{"sha256": "ab"}\n{broken\n'
    expected: dict[str, list[tuple[str, str | None]]] = {
        text: [("192.0.2.1", None), ("192.0.2.2", None), ("http://example.com/#frag", None)],
        table: [("192.0.2.1", "2026-01-02"), ("hxxp://example.com/a,b", "2026-01-03"), ("short", "short")],
        lines: [("192.0.2.1", "2026-01-02"), ("ab", None), ("{broken", None)],
        "": [],
    }
    feed = tmp_path / "feed"
    for content, records in expected.items():
        feed.write_text(content)
        assert await collected(feed) == records
        feed.write_bytes(gzip.compress(content.encode()))
        assert await collected(feed) == records


async def test_reading_a_feed_again_repeats_the_ids(tmp_path: Path) -> None:
    feed = tmp_path / "feed.txt"
    feed.write_text("192.0.2.1\n192.0.2.2\n192.0.2.1\n")

    async def ids() -> list[object]:
        return [out.id async for out in collect.collect(str(feed))]

    first = await ids()
    assert len(set(first)) == 3
    assert await ids() == first


async def test_enrich_adds_scope_and_age_drops_what_is_allowed_and_alerts_on_what_is_watched() -> None:
    lists, seen = enrich.Lists(enrich.Settings()), enrich.Seen()

    async def enriched(kind: str, value: str, id: str | None = None, date: str | None = None) -> list[Enriched | Out]:
        message = Message(body=b"", exchange="indicators", id=id or value)
        return [out async for out in enrich.enrich(Indicator(kind, value, "test", date), message, lists, seen)]

    assert await enriched("ip", "8.8.8.8") == [Enriched("ip", "8.8.8.8", "test", scope="global")]
    assert await enriched("ip", "8.8.8.8", id="another") == [], "a duplicate is dropped"
    assert await enriched("ip", "8.8.8.8") != [], "the same message again is no duplicate of itself"
    assert await enriched("ip", "192.0.2.53") == await enriched("domain", "a.example.org") == []
    assert await enriched("url", "http://www.example.org/x") == []
    assert await enriched("network", "192.0.2.0/24") != [], "a network is more than the address that is allowed"
    plain, alert = await enriched("url", "http://198.51.100.7/x")
    assert isinstance(alert, Out)
    assert (alert.exchange, alert.body) == ("alerts", plain)
    assert (alert.body.watched, alert.body.scope) == ("198.51.100.0/25", "documentation")
    (old,) = await enriched("md5", "0" * 32, date="2020-01-01T00:00:00Z")
    assert isinstance(old, Enriched)
    assert old.age_days is not None
    assert old.age_days > 2000
    (undated,) = await enriched("md5", "1" * 32, date="last summer")
    assert isinstance(undated, Enriched)
    assert undated.age_days is None


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("10.0.0.1", "private"),
        ("127.0.0.1", "loopback"),
        ("169.254.1.1", "link_local"),
        ("224.0.0.1", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("100.64.0.1", "shared"),
        ("240.0.0.1", "private"),
        ("203.0.113.9", "documentation"),
        ("2001:db8::1", "documentation"),
        ("fe80::1", "link_local"),
        ("2606:4700::1", "global"),
    ],
)
def test_the_scope_of_an_address(address: str, scope: str) -> None:
    network = enrich.network_of(Indicator("ip", address, "test"))
    assert network
    assert enrich.scope(network) == scope


def test_a_line_that_a_killed_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"id": "1"}\n{"id": "2"}\n{"id": "3", "va')
    file = act.JsonLines(str(path))
    file.add([{"id": "3"}])
    file.close()
    assert [entry["id"] for entry in written(path)] == ["1", "2", "3"]


@pytest.fixture
def http_server() -> Iterator[tuple[str, list[dict[str, Any]], list[int]]]:
    """URL, the bodies that were posted, and the answers still to give (200 when there is none left)."""
    posted: list[dict[str, Any]] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = answers.pop() if answers else 200
            if status == 200:
                posted.append(body)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/alerts", posted, answers
    server.shutdown()
    server.server_close()
    thread.join()


async def test_an_alert_is_posted_once_the_server_takes_it(
    mqasync_service: StartService, http_server: tuple[str, list[dict[str, Any]], list[int]], tmp_path: Path
) -> None:
    url, posted, answers = http_server
    answers.append(503)
    settings = {"archive": str(tmp_path / "a"), "alerts": str(tmp_path / "b"), "post": url}
    service = await mqasync_service("services.cth.act", config={"services.cth.act": settings})
    event = Enriched("ip", "198.51.100.4", "test", watched="198.51.100.0/25")
    await service.publish("alerts", event)
    await service.quiet()
    assert [body["value"] for body in posted] == ["198.51.100.4"]
    assert written(tmp_path / "b") == posted
    assert len(service.retried) == 1


def test_the_pipeline_works_through_its_sample_feed_with_exact_counts(tmp_path: Path) -> None:
    done = run("services.cth", cwd=tmp_path)
    archive, alerts = written(tmp_path / "cth.jsonl"), written(tmp_path / "cth-alerts.jsonl")
    values = [entry["value"] for entry in archive]
    assert len(values) == len(set(values)) == 43
    assert sorted(entry["value"] for entry in alerts) == [
        "198.51.100.4",
        "198.51.100.64/30",
        "198.51.100.99",
        "2001:db8:5::25",
        "http://198.51.100.99/beacon",
    ]
    assert "2 in the dead letters of CTH/parse" in done.stderr
    assert "published    handled    retried     buried" in done.stderr


def test_a_feed_that_is_not_there_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("services: {services.cth.collect: {feed: nowhere.txt}}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MQASYNC_LOG": "human"}
    done = subprocess.run(
        [*RUN, "services.cth"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "mqasync: the feed 'nowhere.txt' is neither a file nor an http(s) URL"
    assert "Traceback" not in done.stderr


@pytest.fixture(params=["sqlite", "rabbitmq"])
def real_feed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, set[str]]:
    """A broker URL, the configuration in place, and the addresses that the real feed holds."""
    if not IPSUM.exists():
        pytest.skip(f"NOT TESTED with the real feed: {IPSUM} is not there")
    if request.param == "sqlite":
        url = "sqlite:real.db?lease=5"
    else:
        server = request.getfixturevalue("rabbitmq_server")
        server.control("add_vhost", tmp_path.name)
        server.control("set_permissions", "-p", tmp_path.name, "guest", ".*", ".*", ".*")
        url = server.url + tmp_path.name
    return url, cut_feed(tmp_path, None if request.param == "sqlite" else 30_000)


def cut_feed(directory: Path, lines: int | None) -> set[str]:
    """Let the service collect the first lines of the real feed (all of it takes RabbitMQ minutes here): the addresses.

    None: all of them.
    """
    feed = IPSUM.read_text().splitlines()[:lines]
    (directory / "feed.txt").write_text("\n".join(feed))
    (directory / "config.yml").write_text("services: {services.cth.collect: {feed: feed.txt}}")
    return {line.split()[0] for line in feed if line and not line.startswith("#")}


@pytest.mark.timeout(400)
def test_a_real_feed_goes_through_with_exact_counts(
    real_feed: tuple[str, set[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, addresses = real_feed
    started = time.monotonic()
    run("services.cth", "--broker", url, cwd=tmp_path, seconds=390)
    elapsed = time.monotonic() - started
    with capsys.disabled():
        print(f"\n{url.partition(':')[0]}: {len(addresses):,} addresses, {len(addresses) / elapsed:,.0f}/s")
    values = [entry["value"] for entry in written(tmp_path / "cth.jsonl")]
    assert len(values) == len(addresses), "none missing, none twice"
    assert set(values) == addresses


@pytest.mark.timeout(500)
def test_a_real_feed_loses_nothing_when_the_process_is_killed_half_way(
    real_feed: tuple[str, set[str]], tmp_path: Path
) -> None:
    url, _ = real_feed
    addresses = cut_feed(tmp_path, 20_000)
    archive = tmp_path / "cth.jsonl"
    # Given a run that is killed when it has written about half of the addresses
    with subprocess.Popen(
        [*RUN, "services.cth", "--broker", url, "--until-idle"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    ) as process:
        half = 60 * len(addresses)  # bytes, at about 120 a line
        while not archive.exists() or archive.stat().st_size < half:
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    # When it is started again
    run("services.cth", "--broker", url, cwd=tmp_path, seconds=390)
    # Then no address is missing, and what is there twice has the same id twice
    entries = written(archive)
    assert {entry["value"] for entry in entries} == addresses
    assert len({entry["id"] for entry in entries}) == len(addresses)
