"""`mqasync graph`: the pipeline as data, and what each format says; a browser is not needed."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mqasync import consumer, producer
from mqasync.config.settings import ExchangeSettings, Settings
from mqasync.describe.drawing import DRAWINGS, dot, html, mermaid, svg
from mqasync.describe.pipeline import Pipeline, pipeline
from mqasync.errors import ConfigurationError
from mqasync.service.discovery import Service

from .commands import CommandLine

ROOT = Path(__file__).parent.parent
NASTY = 'a"b<script>&]\\'  # the name of a broker may be anything
SVG = "{http://www.w3.org/2000/svg}"
TOOLTIP = "{http://www.w3.org/1999/xlink}title"

pytestmark = pytest.mark.usefixtures("graphviz")


@producer(exchange="orders", id="shop")
async def shop() -> None:
    """Take <orders>.

    And more.
    """


@consumer(exchange="orders", id="check", to=["checked", "orders"])
async def check(order: dict[str, Any]) -> None: ...


@consumer(exchange="checked", id="pack")
async def pack(order: dict[str, Any]) -> None: ...


def graph_of(settings: Settings | None = None, *consumers: Any) -> Pipeline:
    service = Service("shop", [*(consumers or (check, pack))], [shop], None)
    return pipeline([service], settings or Settings(brokers={"main": "memory:"}))


def test_the_graph_has_what_is_declared_and_what_the_configuration_makes_of_it() -> None:
    settings = Settings(
        brokers={"main": "memory:", "rabbit": "amqp://guest:secret@host/", "unused": "memory:other"},
        exchanges={"done": ExchangeSettings(broker="rabbit")},
        consumers={"checked/pack": {"to": "done"}},
    )
    graph = graph_of(settings)
    assert graph.edges == [
        ("producer orders/shop", "exchange orders"),
        ("exchange orders", "consumer orders/check"),
        ("consumer orders/check", "exchange checked"),
        ("consumer orders/check", "exchange orders"),
        ("exchange checked", "consumer checked/pack"),
        ("consumer checked/pack", "exchange done"),
    ]
    assert graph.nodes["exchange done"].broker == "rabbit"
    assert graph.nodes["producer orders/shop"].about == "Take <orders>."
    assert graph.brokers == {"main": "memory:", "rabbit": "amqp://guest:***@host/"}


def test_consumers_that_share_a_queue_are_one_box() -> None:
    @consumer(exchange="checked", id="pack")
    async def again(order: dict[str, Any]) -> None:
        """Another one."""

    graph = graph_of(None, check, pack, again)
    assert list(graph.nodes).count("consumer checked/pack") == 1
    assert graph.edges.count(("exchange checked", "consumer checked/pack")) == 1


def test_an_svg_names_every_box_and_escapes_what_is_in_the_names() -> None:
    graph = graph_of(Settings(brokers={"main": "memory:", NASTY: "memory:x"}, exchanges={"checked": on(NASTY)}))
    picture = ElementTree.fromstring(svg(graph, "<title>"))
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert sorted(filter(None, texts)) == sorted(
        ["shop", "orders", "on main", "check", "checked", f"on {NASTY}", "pack"]
    )
    assert "producer orders/shop: Take <orders>." in [link.get(TOOLTIP) for link in picture.iter(f"{SVG}a")]
    assert picture.findtext(f"{SVG}g/{SVG}title") == "<title>"
    assert len([one for one in picture.iter(f"{SVG}g") if one.get("class") == "edge"]) == len(graph.edges)


def test_where_graphviz_is_not_installed_a_picture_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="install `graphviz`"):
        svg(graph_of(), "x")


def on(broker: str) -> ExchangeSettings:
    return ExchangeSettings(broker=broker)


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_needs_no_network_and_no_script_and_shows_no_secret() -> None:
    graph = graph_of(
        Settings(brokers={"main": "amqp://guest:secret@host/", NASTY: "memory:"}, exchanges={"checked": on(NASTY)})
    )
    text = html(graph, f"title {NASTY}")
    page = Page(text)
    assert {"svg", "h1", "li"} <= set(page.tags)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "http" not in re.sub('xmlns(:xlink)?="http://www.w3.org/', "", text)
    assert f"{NASTY}: memory:" in page.text and "amqp://guest:***@host/" in page.text
    assert "secret" not in text


def test_mermaid_and_dot_escape_what_would_mean_something_to_them() -> None:
    graph = graph_of(Settings(brokers={"main": "memory:", NASTY: "memory:x"}, exchanges={"checked": on(NASTY)}))
    assert 'n3["checked<br/>on a#34;b#60;script#62;#38;#93;#92;"]' in mermaid(graph, "x").replace("    ", "")
    assert mermaid(graph, "two\nlines").splitlines()[0] == "%% two lines"
    assert r'[label="checked\non a\"b<script>&amp;]\\", tooltip="exchange checked"' in dot(graph, "x")


def test_the_threat_hunting_pipeline_is_drawn_in_every_format(tmp_path: Path) -> None:
    command_line = CommandLine(tmp_path, "memory:")
    command_line.environment["PYTHONPATH"] = str(ROOT)
    default = command_line.run("graph", "services.cth")
    assert default.returncode == 0, default.stderr
    assert default.stdout.startswith("%% services.cth\nflowchart LR\n")
    for name in DRAWINGS:
        done = command_line.run("graph", "services.cth", "--format", name, "--output", "picture")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        text = (tmp_path / "picture").read_text()
        assert all(label in text for label in ("feed", "CTH", "parse", "indicators", "enrich", "archive", "alerts"))


def test_a_file_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    command_line = CommandLine(tmp_path, "memory:")
    command_line.environment["PYTHONPATH"] = str(ROOT)
    done = command_line.run("graph", "services.hello", "--output", "there/is/none.svg")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: Invalid value for '--output': 'there/is/none.svg': No such file or directory" in done.stderr
