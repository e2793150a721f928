"""The live page of `run --http`: what a browser shows, and what it refuses to whoever is not that page."""

import json
import re
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from .brokers import BrokerUnavailable, apt_install, free_port
from .commands import CommandLine, Running, eventually
from .conftest import unavailable

ROOT = Path(__file__).parents[1]
STRANGE = "<img src=x onerror=alert(1)>"
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
async def sink(body): ...
"""


class Site:
    """A service with its page."""

    def __init__(self, cli: CommandLine, *options: str) -> None:
        self.cli = cli
        self.url = f"http://127.0.0.1:{free_port()}"
        self.service: Running = cli.start("run", "mine", "--http", self.url.removeprefix("http://"), *options)
        self.service.says("consumer out/sink")

    def bury(self) -> None:
        """One message that fails."""
        self.cli.run("produce", "--exchange", "in", "--id", "me", '{"n": 2, "secret": "body"}')
        eventually(lambda: self.cli.depth("in", "step.dead") == 1, "it is buried")

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

    def token(self) -> str:
        found = re.search(r'name="token" content="([^"]*)"', self.ask("/")[1])
        assert found
        return found[1]


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path, f"sqlite:{tmp_path}/messages.db")
    command_line.file("mine.py", SERVICE)
    yield command_line
    command_line.stop()


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chrome]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for package, program in (("chromium", "chromium"), ("chromium-driver", "chromedriver")):
        if not shutil.which(program):
            try:
                apt_install(package)
            except BrokerUnavailable as error:
                unavailable(error)
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_the_page_shows_rates_and_dead_letters_and_replays_them(cli: CommandLine, browser: Chrome) -> None:
    site = Site(cli, "--http-replay")
    site.bury()
    wait = WebDriverWait(browser, 20)

    def cells() -> list[str]:
        rows = browser.find_elements(By.CSS_SELECTOR, "#queues tr")
        found = [row.text for row in rows if row.text.startswith("in/step")]
        return found[0].split() if found else []

    # Given a service at work, one of whose messages has failed
    browser.get(site.url)
    wait.until(lambda _: cells() and float(cells()[5]) > 0)
    assert cells()[3] == "1", "dead letters"
    picture = browser.find_element(By.ID, "graph")
    wait.until(lambda _: picture.get_property("naturalWidth") or 0)
    assert f"{STRANGE} (" in browser.find_element(By.ID, "queues").text, "a stranger's text is text"
    # When the dead letters are looked at and, the handler mended, replayed
    browser.find_element(By.CSS_SELECTOR, "button.dead").click()
    wait.until(lambda _: '"secret"' in browser.find_element(By.ID, "letters").text)
    assert STRANGE in browser.find_element(By.ID, "letters").text
    cli.file("mended", "")
    browser.find_element(By.ID, "replay-all").click()
    wait.until(lambda _: browser.find_element(By.ID, "said").text == "replayed 1")
    # Then they are gone
    wait.until(lambda _: cells()[3] == "0")
    assert "none are left" in browser.find_element(By.ID, "letters").text
    assert cli.depth("in", "step.dead") == 0
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]
    browser.save_screenshot(cli.directory / "page.png")
    # And when the process ends, the page says so
    site.service.stop()
    wait.until(lambda _: "does not answer" in browser.find_element(By.ID, "state").text)


def test_nobody_but_the_page_replays(cli: CommandLine) -> None:
    site = Site(cli, "--http-replay")
    site.bury()
    path, token = "/dead/in/step/replay", site.token()
    for headers in (
        {},
        {"Origin": site.url},
        {"X_Mqasync_Token": "guessed", "Origin": site.url},
        {"X_Mqasync_Token": token},
        {"X_Mqasync_Token": token, "Origin": "http://evil.example"},
        {"X_Mqasync_Token": token, "Origin": site.url, "Sec_Fetch_Site": "cross-site"},
        {"X_Mqasync_Token": token, "Origin": site.url, "Host": "evil.example"},
    ):
        assert site.ask(path, "POST", **headers)[0] == 403, headers
    assert site.ask(path, "GET")[0] == 405
    assert cli.depth("in", "step.dead") == 1
    assert site.ask("/dead/in/nothing/replay", "POST", X_Mqasync_Token=token, Origin=site.url)[0] == 404
    assert site.ask(path, "POST", X_Mqasync_Token=token, Origin=site.url) == (200, '{"replayed":1}')


def test_without_the_switch_nothing_is_replayed_and_no_body_is_shown(cli: CommandLine) -> None:
    site = Site(cli)
    site.bury()
    assert site.token() == ""
    assert site.ask("/dead/in/step/replay", "POST", X_Mqasync_Token="", Origin=site.url)[0] == 403
    (letter,) = json.loads(site.ask("/dead/in/step")[1])
    assert (letter["error"], letter["body"]) == (STRANGE, None)
    assert cli.depth("in", "step.dead") == 1
    eventually(lambda: bool(site.status()["processes"]), "the process reports")
    assert site.status()["replay"] is False
    assert site.ask("/graph.svg")[1].startswith("<svg")


def test_the_pages_files_are_in_the_package(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        assert {"page.html", "page.css", "page.js"} <= {Path(name).name for name in archive.namelist()}
