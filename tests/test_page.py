"""The live page of `run --http`: what a browser shows, and what it refuses to whoever is not that page."""

import asyncio
import json
import re
import signal
import socket
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from mqasync import consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import load_settings
from mqasync.errors import Unroutable
from mqasync.message import Message, new_id
from mqasync.observe.report import STATUS, ConsumerHealth, Report
from mqasync.service.discovery import Service
from mqasync.service.runner import Runner
from mqasync.web import curves
from mqasync.web.page import TOKEN, Live, Page

from .brokers import free_port
from .browser import chromium
from .commands import CommandLine, Running, eventually

ROOT = Path(__file__).parents[1]
CONSUMER = ConsumerHealth(exchange="in", id="step", to=(), consuming=False, held=0, oldest=None, published={})
REPORT = Report("other", "host", 1, ("mine",), 0.0, 0.0, {}, {"in/step": CONSUMER}, {}, 0, {})
STRANGE = "<img src=x onerror=alert(1)>"
BODY = b'{"n": 2, "secret": "body"}'
SERVICE = f"""
import os
from mqasync import consumer, producer

@producer(exchange="in", id="source", every="0.2s")
async def source():
    yield {{"n": 1}}

@consumer(exchange="in", id="step", to="out", retries=0)
async def step(body):
    if body["n"] == 2 and not os.path.exists("mended"):
        raise ValueError("{STRANGE}")
    return body

@consumer(exchange="out", id="sink")
async def sink(body):
    if "secret" in body:
        open("handled", "a").write("x")
"""


ALSO = """
from mqasync import Out, consumer, producer

@producer(exchange="in", id="also", every="0.2s")
async def also():
    yield Out({"n": 3}, exchange="audit")

@consumer(exchange="audit", id="late")
async def late(body):
    return Out(body, exchange="in")
"""


def arrows(site: "Site") -> set[str]:
    """From node to node of the picture, by their keys."""
    return set(re.findall(r"<title>(.*?)</title>", site.ask("/graph.svg")[1].replace("&#45;&gt;", " ")))


async def publish(url: str, messages: list[Message]) -> None:
    """With ids of our choice."""
    brokers = Brokers(load_settings(None, url))
    try:
        await asyncio.gather(*map(brokers.publish, messages))
    finally:
        await brokers.close()


def token_in(page: str) -> str:
    """What the page sends to be allowed to replay."""
    found = re.search(r'name="token" content="([^"]*)"', page)
    assert found
    return found[1]


class Site:
    """A service with its page."""

    def __init__(self, cli: CommandLine, *options: str) -> None:
        self.cli = cli
        self.url = f"http://127.0.0.1:{free_port()}"
        self.service: Running = cli.start("run", "mine", *options, "--http", self.url.removeprefix("http://"))
        self.service.says("consumer out/sink")

    def dead_letter(self, *ids: str) -> None:
        """Messages that fail."""
        asyncio.run(publish(self.cli.url, [Message(body=BODY, exchange="in", id=id) for id in ids]))
        eventually(lambda: self.cli.depth("in", "step.dead") == len(ids), "they are dead-lettered")

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, method=method, headers=given), timeout=10
            ) as answer:
                assert "default-src" in answer.headers["Content-Security-Policy"]
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> Any:
        return json.loads(self.ask("/status.json")[1])

    def token(self, host: str = "") -> str:
        return token_in(self.ask("/", Host=host or self.url.removeprefix("http://"))[1])


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.file("mine.py", SERVICE)
    return cli


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chrome]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with chromium() as driver:
        yield driver


@pytest.mark.usefixtures("graphviz")
def test_the_page_shows_rates_and_dead_letters_and_replays_them(cli: CommandLine, browser: Chrome) -> None:
    site = Site(cli, "--http-replay")
    site.dead_letter(STRANGE, "plain")
    wait = WebDriverWait(browser, 20)

    def text(id: str) -> str:
        return browser.find_element(By.ID, id).text

    def cells() -> list[str]:
        rows = browser.find_elements(By.CSS_SELECTOR, "#queues tr")
        found = [row.text for row in rows if row.text.startswith("in/step")]
        return found[0].split() if found else []

    # Given a service at work, two of whose messages have failed
    browser.get(site.url)
    wait.until(lambda _: cells() and float(cells()[5]) > 0)
    assert cells()[3] == "2", "dead letters"
    picture = browser.find_element(By.ID, "graph")
    wait.until(lambda _: picture.get_property("naturalWidth") or 0)
    assert f"{STRANGE} (" in text("queues"), "a stranger's text is text"
    # When the dead letters are looked at and, the handler mended, one and then all are replayed
    browser.find_element(By.CSS_SELECTOR, "button.dead").click()
    wait.until(lambda _: '"secret"' in text("letters"))
    assert text("letters").count(STRANGE) == 3, "one id and both errors"
    assert not browser.find_elements(By.CSS_SELECTOR, "#letters img, #queues img")
    cli.file("mended", "")
    browser.find_element(By.CSS_SELECTOR, "#letters button").click()
    wait.until(lambda _: text("said") == "replayed 1; 1 of 1 shown")
    browser.find_element(By.ID, "replay-all").click()
    wait.until(lambda _: text("said") == "replayed 1; 0 of 0 shown")
    # Then they are gone, and handled
    wait.until(lambda _: cells()[3] == "0")
    assert "no dead letters" in text("letters")
    assert cli.depth("in", "step.dead") == 0
    eventually(lambda: (cli.directory / "handled").read_text() == "xx", "both are handled")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]
    # And there are curves of what waited and of what was handled
    wait.until(lambda _: len(browser.find_elements(By.CSS_SELECTOR, "#queues td.curve path[d^=M]")) == 4)
    # And when the process stands still or ends, the page says so
    site.service.send(signal.SIGSTOP)
    wait.until(lambda _: text("state") == "no answer yet")
    site.service.stop()
    wait.until(lambda _: "does not answer" in text("state"))


@pytest.mark.usefixtures("graphviz")
def test_the_cth_pipeline_fits_into_1280_pixels_and_every_arrow_that_was_seen_is_drawn(
    cli: CommandLine, browser: Chrome
) -> None:
    cli.environment["PYTHONPATH"] = str(ROOT)
    cli.file("also.py", ALSO)
    site = Site(cli, "services.cth", "also")
    eventually(lambda: "consumer audit/late exchange in" in arrows(site), "the arrow of an Out is there")
    assert {"producer in/also exchange audit", "consumer audit/late exchange in"} <= arrows(site)
    browser.get(site.url)
    WebDriverWait(browser, 20).until(lambda _: browser.find_element(By.ID, "graph").get_property("naturalWidth") or 0)
    too_wide = "return [...document.querySelectorAll('html, figure, .wide')].filter(b => b.scrollWidth > b.clientWidth)"
    assert browser.execute_script(too_wide) == []


async def test_curves_tell_what_was_handled_and_what_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "SECONDS", 0.1)
    monkeypatch.setattr(curves, "POINTS", 3)
    go_on = asyncio.Event()

    @consumer(exchange="in", id="step", concurrency=1, prefetch=1)
    async def step(body: Any) -> None:
        await go_on.wait()

    service = Service("mine", [step], [], None)
    async with Runner([service], load_settings(None, f"memory:{new_id()}")) as runner:
        app = web.Application()
        Page(app, runner, replay=False, host=None)
        async with TestClient(TestServer(app)) as client, asyncio.timeout(20):

            async def until_curve(shows: Callable[[dict[str, list[float | None]]], bool]) -> None:
                while True:
                    found = (await (await client.get("/status.json")).json())["curves"]
                    if "in/step" in found and shows(found["in/step"]):
                        return
                    await asyncio.sleep(0.05)

            for _ in range(3):
                await runner.brokers.publish(Message(body=b"1", exchange="in"))
            # Given one in hand
            await until_curve(lambda curve: curve == {"waiting": [2, 2, 2], "per second": [0, 0, 0]})
            # When they are handled, then both curves tell
            go_on.set()
            await until_curve(lambda curve: any(curve["per second"]))
            await until_curve(lambda curve: curve["waiting"] == [0, 0, 0])
            # But the brokers are not asked where there are more queues than that: it took half a core with 500
            monkeypatch.setattr(curves, "MOST_ASKED", 0)
            await until_curve(lambda curve: curve["waiting"] == [None] * 3)


def test_nobody_but_the_page_replays(cli: CommandLine) -> None:
    site = Site(cli, "--http-replay")
    site.dead_letter("one", "other")
    path, token = "/dead/in/step/replay", site.token()
    for headers in (
        {},
        {"Origin": site.url},
        {"X_Mqasync_Token": "guessed", "Origin": site.url},
        {"X_Mqasync_Token": token},
        {"X_Mqasync_Token": token, "Origin": "http://evil.example"},
        {"X_Mqasync_Token": token, "Origin": site.url, "Sec_Fetch_Site": "cross-site"},
        {"X_Mqasync_Token": token, "Origin": site.url, "Host": "evil.example"},
        {"X_Mqasync_Token": token, "Origin": "http://evil.example", "Host": "evil.example"},
    ):
        assert site.ask(path, "POST", **headers)[0] == 403, headers
    assert site.ask(path, "GET")[0] == 405
    assert site.ask("/dead/in/step", Sec_Fetch_Site="cross-site")[0] == 403
    assert cli.depth("in", "step.dead") == 2
    assert site.ask("/dead/in/nothing/replay", "POST", X_Mqasync_Token=token, Origin=site.url)[0] == 404
    # an id is meant as it is, also when it is none or begins another
    for id, count in (("", 0), ("on", 0), ("one", 1), ("one", 0)):
        answer = site.ask(f"{path}?message={id}", "POST", X_Mqasync_Token=token, Origin=site.url)
        assert answer == (200, f'{{"replayed":{count}}}'), id
        cli.file("mended", "")


def test_a_name_that_a_stranger_made_point_here_gets_no_token_and_no_body(cli: CommandLine) -> None:
    site = Site(cli, "--http-replay")
    site.dead_letter("one")
    port = site.url.rpartition(":")[2]
    for host in ("127.0.0.1", "[::1]", "localhost", socket.gethostname()):
        assert site.token(f"{host}:{port}"), host
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[", "localhost.evil.example:80"):
        assert not site.token(host), host
        (letter,) = json.loads(site.ask("/dead/in/step", Host=host)[1])["letters"]
        assert letter["body"] is None, host


def test_without_the_switch_nothing_is_replayed_and_no_body_is_shown(cli: CommandLine) -> None:
    site = Site(cli)
    site.dead_letter(STRANGE)
    assert site.token() == ""
    assert site.ask("/dead/in/step/replay", "POST", X_Mqasync_Token="", Origin=site.url)[0] == 403
    (letter,) = json.loads(site.ask("/dead/in/step")[1])["letters"]
    assert (letter["id"], letter["error"], letter["body"]) == (STRANGE, STRANGE, None)
    assert cli.depth("in", "step.dead") == 1


@pytest.mark.usefixtures("graphviz")
def test_the_page_tells_of_all_processes_its_own_at_once(cli: CommandLine) -> None:
    site, other = Site(cli), Site(cli)
    pids = sorted([site.service.process.pid, other.service.process.pid])
    (own,) = site.status()["processes"]
    assert own["process"].endswith(f":{site.service.process.pid}")
    eventually(lambda: len(site.status()["processes"]) == 2, "the other reports too")
    assert [int(one["process"].rpartition(":")[2]) for one in site.status()["processes"]] == pids
    assert {one["queue"] for one in site.status()["queues"]} == {"in/step", "out/sink"}
    assert re.search(r">[\d.,]+/s</text>", site.ask("/graph.svg")[1])


async def test_the_brokers_are_asked_at_most_once_a_second_whoever_looks() -> None:
    async with Runner([], load_settings(None, "memory:")) as runner:
        live = Live(runner)
        first, *others = await asyncio.gather(*(live.now() for _ in range(10)))
        assert all(other is first for other in others)


async def test_a_broker_that_does_not_answer_hides_no_process(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text(f"brokers: {{main: 'memory:', away: 'redis://127.0.0.1:{free_port()}', bad: 'sqlite:/no/x.db'}}")
    async with Runner([], load_settings(str(file), None)) as runner:
        for name in ("main", "away", "bad"):
            runner.brokers.named(name)
        (own,) = (await asyncio.wait_for(Live(runner).now(), 5)).reports
        assert own.brokers["away"].state == "not connected"


async def test_a_dead_letter_whose_queue_is_gone_stays() -> None:
    async with Runner([], load_settings(None, f"memory:{new_id()}")) as runner:
        # Given a dead letter of a queue that a process still tells of, but that is deleted
        broker, app = runner.brokers.named("main"), web.Application()
        await broker.call(lambda transport: transport.declare("in", "step.dead"))
        await broker.call(lambda transport: transport.send("in", "step.dead", [Message(body=b"1", exchange="in")]))
        Page(app, runner, replay=True, host=None)
        async with TestClient(TestServer(app)) as client, asyncio.timeout(20):
            report = Message(body=msgspec.json.encode(REPORT), exchange=STATUS)
            while "step" not in await (await client.get("/status.json")).text():
                with suppress(Unroutable):  # the page does not listen yet
                    await broker.publish(STATUS, report)
                await asyncio.sleep(0.05)
            # When it is replayed
            token = await (await client.get("/")).text()
            headers = {
                TOKEN: token.partition('"token" content="')[2].partition('"')[0],
                "Origin": str(client.make_url("/").origin()),
            }
            answer = await client.post("/dead/in/step/replay", headers=headers)
            # Then the page says why not, and it is there
            gone = "there is no queue in/step any more: its dead letters stay"
            assert (answer.status, await answer.text()) == (409, gone)
            stats = await broker.call(lambda transport: transport.stats("in", "step.dead"))
            assert stats
            assert stats.total == 1


def test_the_pages_files_are_in_the_package(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        assert {"page.html", "page.css", "page.js", "page.svg"} <= {Path(name).name for name in archive.namelist()}
