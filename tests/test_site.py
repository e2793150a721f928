"""The website of `make site`: it is built without a warning, its links lead somewhere, and the API is complete."""

import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import mqasync

from .browser import chromium

ROOT = Path(__file__).parents[1]
OTHERS = {"mqasync.handler.ConsumerOptions", "mqasync.transport.Transport", "mqasync.testing.mqasync_service"}


class Page(HTMLParser):
    """What can be linked to, what is linked to, and what the browser fetches by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = {""}
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            if name in ("href", "src") and value:
                (self.links if tag == "a" else self.fetched).add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its directory; `make` installs first what is missing."""
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(["make", "site", f"SITE={directory}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.glob("*.html") if path.name != "404.html"}


def test_every_link_leads_to_a_place_that_is_there(site: Path, pages: dict[Path, Page]) -> None:
    assert site / "index.html" in pages
    for path, page in pages.items():
        for address in page.links | page.fetched:
            if address.startswith("https://github.com/mqasync/mqasync/blob/main/"):
                assert (ROOT / address.partition("/main/")[2]).is_file(), f"{path.name} links to {address}"
            elif not address.startswith(("https:", "mailto:")):
                file, fragment = urldefrag(unquote(address))
                target = path.parent / file if file else path
                assert target.exists(), f"{path.name} links to {address}"
                assert target not in pages or fragment in pages[target].ids, f"{path.name} links to {address}"


def test_no_page_fetches_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert [address for page in pages.values() for address in page.fetched if "//" in address] == []


def test_every_public_name_is_in_the_reference(site: Path, pages: dict[Path, Page]) -> None:
    names = {f"mqasync.{name}" for name in mqasync.__all__} | OTHERS
    assert names - pages[site / "api.html"].ids == set()


def test_on_a_telephone_no_page_is_wider_than_the_window_and_the_diagram_is_drawn(
    pages: dict[Path, Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    telephone = {"width": 500, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    too_wide = "return document.documentElement.scrollWidth > 500"
    with chromium() as browser:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", telephone)
        for path in pages:
            browser.get(path.as_uri())
            assert not browser.execute_script(too_wide), path.name
            if path.name == "architecture.html":
                WebDriverWait(browser, 20).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "div.mermaid"))
