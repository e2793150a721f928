"""The services that ship with mqasync: their handlers as plain coroutines, and whole runs as real processes."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mqasync import ConfigurationError, Message, Reject
from mqasync.testing import StartService
from services.cth import act, collect, enrich
from services.cth.events import Enriched, Indicator, Record
from services.cth.parse import parse

from .commands import CommandLine

ROOT = Path(__file__).parent.parent
IPSUM = ROOT.parent / "shared" / "data" / "ipsum.txt"
RUN = [sys.executable, "-m", "mqasync", "run"]


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.environment["PYTHONPATH"] = str(ROOT)
    return cli


def run(*arguments: str, cwd: Path, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """A whole `mqasync run ... --until-idle`; its output is shown when the test fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MQASYNC_LOG": "human"}
    command = [*RUN, *arguments, "--until-idle"]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def written(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def message(id: str, exchange: str = "indicators") -> Message:
    return Message(body=b"", exchange=exchange, id=id)


class Server:
    """A web server on a free port: what it answers, by path, and what was sent to it."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.refusals: list[int] = []  # what it answers before that
        self.requests: list[tuple[str, str, Any]] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                recorder.requests.append((self.command, self.path, json.loads(body) if body else None))
                status, headers, content = recorder.answers.get(self.path, (404, {}, b""))
                status = recorder.refusals.pop() if recorder.refusals else status
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


# parse


async def test_a_record_becomes_an_indicator_with_what_travels_along() -> None:
    record = Record(
        "192.0.2[.]1:443", "test", "2026-01-02 03:04:05 UTC", feed="x", provider="y", extra={"malware": "z"}
    )
    (out,) = [out async for out in parse(record)]
    extra = {"malware": "z", "port": 443}
    date = "2026-01-02T03:04:05Z"
    assert out.body == Indicator("ip", "192.0.2.1", "test", date, "x", "y", raw="192.0.2[.]1:443", extra=extra)


async def test_the_same_indicator_has_the_same_id_however_it_is_written_and_a_date_that_is_none_is_kept() -> None:
    one, other = [
        [out async for out in parse(Record(value, "test", date="soon"))] for value in ("Evil.Example", "evil[.]example")
    ]
    assert [out.id for out in one] == [out.id for out in other]
    assert one[0].body.date is None
    assert one[0].body.extra == {"date": "soon"}


async def test_a_range_is_several_networks() -> None:
    found = [out.body.value async for out in parse(Record("192.0.2.4-192.0.2.9", "test"))]
    assert found == ["192.0.2.4/30", "192.0.2.8/31"]


@pytest.mark.parametrize("text", ["", "no indicator", "300.300.300.300", "http://", "localhost", "1.2.3", "a" * 5000])
async def test_what_is_no_indicator_is_rejected_and_quoted(text: str) -> None:
    with pytest.raises(Reject) as caught:
        await anext(parse(Record(text, "test")))
    assert text[:50] in str(caught.value)
    assert len(str(caught.value)) < 200


# enrich


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
def test_an_address_has_a_scope_and_a_network_only_if_all_of_it_has(network: str, scope: str) -> None:
    assert enrich.scope(ip_network(network)) == scope


async def test_enrich_adds_scope_and_age_drops_what_is_allowed_and_alerts_on_what_is_watched() -> None:
    lists = enrich.Lists(enrich.Settings())

    async def enriched(kind: str, value: str, date: str | None = None) -> list[tuple[str | None, Enriched]]:
        one = Indicator(kind, value, "test", date)
        return [(out.exchange, out.body) async for out in enrich.enrich([one], [message(value)], lists)]

    assert await enriched("ip", "8.8.8.8") == [(None, Enriched("ip", "8.8.8.8", "test", scope="global"))]
    assert await enriched("ip", "192.0.2.53") == await enriched("domain", "a.example.org") == []
    assert await enriched("url", "http://www.example.org/x") == []
    assert await enriched("network", "192.0.2.0/24") != [], "a network is more than the address that is allowed"
    (_, plain), (exchange, alert) = await enriched("url", "http://198.51.100.7/x")
    assert (exchange, alert) == ("alerts", plain)
    assert (alert.watched, alert.scope) == ("198.51.100.0/25", "documentation")
    ((_, old),) = await enriched("md5", "0" * 32, date="2020-01-01T00:00:00Z")
    assert old.age_days is not None
    assert old.age_days > 2000
    ((_, undated),) = await enriched("md5", "1" * 32, date="0001-01-01")
    assert undated.age_days is None


async def test_what_a_batch_has_twice_is_put_out_once_with_the_id_of_its_message() -> None:
    lists = enrich.Lists(enrich.Settings())
    batch = [Indicator("ip", value, "test") for value in ("8.8.8.8", "9.9.9.9", "8.8.8.8")]
    outs = [out async for out in enrich.enrich(batch, [message("8"), message("9"), message("8")], lists)]
    assert [(out.id, out.body.value) for out in outs] == [("8", "8.8.8.8"), ("9", "9.9.9.9")]
    assert lists.repeated == 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("url", "http://3325256708/"),
        ("url", "http://0xc6336404/"),
        ("url", "http://0306.063.0144.04:8080/x"),
        ("url", "http://198.51.25604/"),
        ("url", "http://198.51.100.4./"),
        ("url", "http://[::ffff:198.51.100.4]/"),
        ("ip", "::ffff:198.51.100.4"),
        ("ip", "::ffff:c633:6404"),
    ],
)
async def test_an_address_in_disguise_is_seen_by_the_watch_list(kind: str, value: str) -> None:
    lists = enrich.Lists(enrich.Settings())
    outs = [out async for out in enrich.enrich([Indicator(kind, value, "test")], [message("1")], lists)]
    assert len(outs) == 2, "the second one is the alert"


# act


async def test_a_batch_is_archived_as_json_lines_with_the_ids_of_its_messages(tmp_path: Path) -> None:
    events = [Enriched("ip", "192.0.2.1", "test", scope="documentation"), Enriched("domain", "a.example.com", "test")]
    file = act.JsonLines(str(tmp_path / "out.jsonl"))
    try:
        await act.archive(events, [message("1", "enriched"), message("2", "enriched")], file, act.Settings())
        lines = written(file.path)  # before it is closed
    finally:
        file.close()
    assert [(line["id"], line["kind"], line["value"]) for line in lines] == [
        ("1", "ip", "192.0.2.1"),
        ("2", "domain", "a.example.com"),
    ]


# The fields of IntelMQ's data format that are used here, and what may stand there
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00"
INTELMQ = {
    "source.ip": r"[0-9a-f:.]+",
    "source.network": r"[0-9a-f:.]+/\d+",
    "source.fqdn": r"[^A-Z]*[^.A-Z]",
    "source.url": r"[a-z]+://[^/]+.*",
    "source.account": r".+",
    "source.asn": r"\d{1,10}",
    "source.port": r"\d{1,5}",
    **{f"malware.hash.{kind}": r"[ -~]{1,200}" for kind in ("md5", "sha1", "sha256")},
    "malware.name": r"[ -@\[-~]+",
    "classification.type": "undetermined|c2-server|malware-distribution|phishing|blacklist|scanner|other",
    **dict.fromkeys(("feed.name", "feed.provider"), r".+"),
    "feed.url": r"https?://.+",
    **dict.fromkeys(("time.source", "time.observation"), TIME),
    "raw": r"[A-Za-z0-9+/]+={0,2}",
}
NUMBERS = {"source.asn", "source.port"}


@pytest.mark.parametrize("feed", sorted((ROOT / "tests" / "feeds").glob("*.txt")), ids=lambda path: path.stem)
async def test_in_intelmqs_style_every_indicator_has_only_fields_that_intelmq_knows(feed: Path, tmp_path: Path) -> None:
    constants: dict[str, Any] = {"classification.type": "c2-server", "malware.name": "emotet", "extra.team": "blue"}
    settings = act.Settings(style="intelmq", constants=constants)
    for record in recorded(feed):
        with suppress(Reject):
            async for out in parse(record):
                sent = enriched(out.body)
                line = act.line(sent, message("1"), settings)
                assert {name for name in line if not re.fullmatch(r"extra\.[a-z0-9_]+", name)} <= INTELMQ.keys()
                for name in line.keys() & INTELMQ.keys():
                    assert isinstance(line[name], int if name in NUMBERS else str)
                    assert re.fullmatch(INTELMQ[name], str(line[name])), (name, line[name])
                assert base64.b64decode(line["raw"]).decode() == record.value
                assert line["classification.type"] == "c2-server", "the constant"
                assert line["feed.name"] == "a feed"
                assert sent.value in map(str, (*line.values(), f"AS{line.get('source.asn')}"))


def recorded(feed: Path) -> list[Record]:
    with open(feed, "rb") as file:
        return list(collect.records(collect.Feed(url=str(feed), name="a feed", provider="Example"), file))


def enriched(indicator: Indicator) -> Enriched:
    return Enriched(**msgspec.structs.asdict(indicator), scope="global", age_days=3)


async def test_in_intelmqs_style_the_port_the_date_and_the_columns_have_their_names() -> None:
    record = Record("192.0.2.1:443", "https://x.example/f", "2026-01-02", extra={"C&C Family": "Emotet", "port": 443})
    (out,) = [out async for out in parse(record)]
    when = Message(body=b"", exchange="enriched", id="1", time=1776182541.0)
    assert act.line(enriched(out.body), when, act.Settings(style="intelmq")) == {
        "source.ip": "192.0.2.1",
        "source.port": 443,
        "classification.type": "undetermined",
        "feed.name": "https://x.example/f",
        "feed.url": "https://x.example/f",
        "time.source": "2026-01-02T00:00:00+00:00",
        "time.observation": "2026-04-14T16:02:21+00:00",
        "raw": base64.b64encode(b"192.0.2.1:443").decode(),
        "extra.c_c_family": "Emotet",
        "extra.id": "1",
        "extra.scope": "global",
        "extra.age_days": 3,
    }


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("style: intelmk", "style is 'intelmk'; it takes plain, intelmq"),
        ("constants: {feed.name: x}", "constants are for style: intelmq"),
        ("style: intelmq, constants: {Feed Name: x}", "constants has 'Feed Name'; it takes names such as"),
    ],
)
def test_a_mistake_in_the_style_is_one_sentence(mistake: str, said: str, cli: CommandLine) -> None:
    cli.file("config.yml", f"services: {{services.cth.act: {{{mistake}}}}}")
    for command in ("run", "check"):
        done = cli.run(command, "services.cth")
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert said in done.stderr.splitlines()[-1]


def test_an_output_path_that_cannot_be_written_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    path = str(tmp_path / "no" / "out.jsonl")
    with pytest.raises(ConfigurationError) as caught:
        act.JsonLines(path)
    assert str(caught.value) == f"the file {path!r} cannot be written: No such file or directory"


def test_a_line_that_a_killed_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"id": "1"}\n{"id": "2"}\n{"id": "3", "va')
    file = act.JsonLines(str(path))
    file.add([{"id": "3"}])
    file.close()
    assert [entry["id"] for entry in written(path)] == ["1", "2", "3"]


@pytest.fixture
def alerts_file(tmp_path: Path) -> Iterator[act.JsonLines]:
    file = act.JsonLines(str(tmp_path / "alerts.jsonl"))
    yield file
    file.close()


async def test_an_alert_is_posted_and_written_down_once_the_server_takes_it(
    mqasync_service: StartService, web: Server, tmp_path: Path
) -> None:
    settings = {"archive": str(tmp_path / "a"), "alerts": str(tmp_path / "b"), "post": f"{web.url}/alerts"}
    service = await mqasync_service("services.cth.act", config={"services.cth.act": settings})
    web.answers["/alerts"] = (202, {}, b"")
    web.refusals = [503]
    id = await service.publish("alerts", Enriched("ip", "198.51.100.4", "test", watched="198.51.100.0/25"))
    await service.quiet()
    line = {"id": id, "kind": "ip", "value": "198.51.100.4", "source": "test", "watched": "198.51.100.0/25"}
    assert web.requests == [("POST", "/alerts", line)] * 2
    assert written(tmp_path / "b") == [line]


@pytest.mark.parametrize("status", [301, 307, 400, 503])
async def test_an_alert_that_is_not_taken_is_an_error_and_not_followed_elsewhere(
    status: int, web: Server, alerts_file: act.JsonLines
) -> None:
    web.answers["/alerts"] = (status, {"Location": "/login"}, b"")
    web.answers["/login"] = (200, {}, b"who are you?")
    event = Enriched("ip", "198.51.100.4", "test")
    with pytest.raises(OSError, match=rf"/alerts answered {status}$"):
        await act.alert(event, message("1", "alerts"), alerts_file, act.Settings(post=f"{web.url}/alerts"))
    assert [path for _, path, _ in web.requests] == ["/alerts"]
    assert written(alerts_file.path) == [], "what was not posted is not written down either"


async def test_a_server_that_is_not_there_is_an_error(alerts_file: act.JsonLines) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/alerts"
    event = Enriched("ip", "198.51.100.4", "test")
    with pytest.raises(OSError, match="refused"):
        await act.alert(event, message("1", "alerts"), alerts_file, act.Settings(post=url, timeout=5))
    assert written(alerts_file.path) == []


# whole runs


def test_hello_prints_its_greetings(tmp_path: Path) -> None:
    done = run("services.hello", cwd=tmp_path)
    assert done.stdout == "Hello, Ada!\nHello, Grace!\nHello, Edsger!\n"


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
    assert "2 in the dead-letter queue of CTH/parse" in done.stderr
    dropped = re.search(r"dropped: 3 on the allow list, (\d+) duplicates in one batch", done.stderr)
    not_handled = re.search(r"(\d+) duplicates? of indicators/enrich", done.stderr)
    assert sum(int(found[1]) for found in (dropped, not_handled) if found) == 5
    assert re.search(r"CTH/feed +53$", done.stderr, re.MULTILINE)


def test_the_pipeline_archives_what_feeds_in_all_forms_say_each_once(tmp_path: Path) -> None:
    feeds = [{"url": str(path), "name": path.stem} for path in sorted((ROOT / "tests" / "feeds").glob("*.txt"))]
    services = {"services.cth.collect": {"feeds": feeds}, "services.cth.enrich": {"allow": []}}
    (tmp_path / "config.yml").write_text(json.dumps({"services": services}))
    run("services.cth", cwd=tmp_path)
    expected = [json.loads(Path(feed["url"]).with_suffix(".expected.json").read_text())["expected"] for feed in feeds]
    archive = [(entry["kind"], entry["value"]) for entry in written(tmp_path / "cth.jsonl")]
    assert sorted(archive) == sorted({(kind, value) for pairs in expected for kind, value in pairs})


def test_a_feed_that_is_not_there_is_one_sentence_and_exit_code_2(cli: CommandLine) -> None:
    cli.file("config.yml", "services: {services.cth.collect: {feed: nowhere.txt}}")
    done = cli.run("run", "services.cth")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "mqasync: the feed 'nowhere.txt' is neither a file nor an http(s) URL"
    assert "Traceback" not in done.stderr


@pytest.fixture(params=["sqlite", "rabbitmq"])
def real_feed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, set[str]]:
    """A broker's URL, and the addresses of the first lines of the real feed, which the service collects."""
    if not IPSUM.exists():
        pytest.skip(f"NOT TESTED with the real feed: {IPSUM} is not there")
    url = "sqlite:real.db?lease=5"
    if request.param == "rabbitmq":
        server = request.getfixturevalue("rabbitmq_server")
        server.control("add_vhost", tmp_path.name)
        server.control("set_permissions", "-p", tmp_path.name, "guest", ".*", ".*", ".*")
        url = server.url + tmp_path.name
    feed = IPSUM.read_text().splitlines()[:10_000]
    (tmp_path / "feed.txt").write_text("\n".join(feed))
    (tmp_path / "config.yml").write_text("services: {services.cth.collect: {feed: feed.txt}}")
    return url, {line.split()[0] for line in feed if line and not line.startswith("#")}


@pytest.mark.timeout(400)
def test_a_real_feed_goes_through_with_exact_counts(real_feed: tuple[str, set[str]], tmp_path: Path) -> None:
    url, addresses = real_feed
    run("services.cth", "--broker", url, cwd=tmp_path, seconds=390)
    values = [entry["value"] for entry in written(tmp_path / "cth.jsonl")]
    assert len(values) == len(addresses), "none missing, none twice"
    assert set(values) == addresses


@pytest.mark.timeout(400)
def test_a_real_feed_loses_nothing_when_the_process_is_killed_half_way(
    real_feed: tuple[str, set[str]], tmp_path: Path
) -> None:
    url, addresses = real_feed
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
