"""`make bench` prints every figure; how large they are is never asserted, the machines are noisy."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import frameworks
from bench.chart import BOTTOM, LEFT, RIGHT, TOP, WIDTH, chart

from .brokers import BrokerUnavailable, RabbitMQ
from .conftest import unavailable

SVG = "{http://www.w3.org/2000/svg}"


def bench(server: RabbitMQ, *sections: str) -> str:
    """What the quick benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", f"--rabbitmq={server.url}", *sections],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FIGURES = {
    "rabbitmq sqlite start": "consume, handle, acknowledge; publish confirmed; a commit a row; p99; idle consumers",
    "scale curves": "ratio; 10 consumers consume; idle; 500 waiting; by prefetch; by concurrency; by queues",
}


@pytest.mark.parametrize("sections", FIGURES)
def test_the_benchmark_prints_every_figure(sections: str, rabbitmq_server: RabbitMQ) -> None:
    printed = bench(rabbitmq_server, *sections.split())
    for row in FIGURES[sections].split("; "):
        assert row in printed


def test_the_names_of_four_lines_fit_beside_each_other() -> None:
    names = ("publish, RabbitMQ", "consume, RabbitMQ", "publish, memory", "consume, memory")
    svg = ElementTree.fromstring(chart("A", "x", "y", {name: [(1, 97), (1000, 53_000)] for name in names}))
    starts = {text.text: float(text.get("x", "")) for text in svg.iter(f"{SVG}text") if text.text in names}
    ends = {name: start + 6.5 * len(name) for name, start in starts.items()}  # pixels a letter takes
    assert all(ends[name] < starts[following] for name, following in pairwise(names)), ends
    assert ends[names[-1]] <= WIDTH


def test_a_chart_has_a_point_for_every_value_and_keeps_it_inside() -> None:
    svg = ElementTree.fromstring(chart("A & B", "x", "y", {"one": [(1, 97), (1000, 53_000)], "two": [(30, 2_800)]}))
    points = [(float(circle.attrib["cx"]), float(circle.attrib["cy"])) for circle in svg.iter(f"{SVG}circle")]
    assert len(points) == 3
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in points)
    assert {"1", "1k", "100k", "A & B"} <= {text.text for text in svg.iter(f"{SVG}text")}


@pytest.mark.timeout(300)  # the frameworks may have to be installed first
def test_the_benchmark_compares_other_frameworks_that_leave_no_message_behind(rabbitmq_server: RabbitMQ) -> None:
    try:
        frameworks.install()
    except BrokerUnavailable as error:
        unavailable(error)
    on_rabbitmq, on_redis = bench(rabbitmq_server, "peers").split("== Redis beside IntelMQ")
    for name in frameworks.PEERS:
        rows = [line for line in on_rabbitmq.splitlines() if line.startswith(f"  {name} ")]
        assert len(rows) == (3 if name in frameworks.ASYNCIO else 2)
    assert len(re.findall("  intelmq ", on_redis)) == 2


@pytest.mark.timeout(300)
def test_lost_messages_are_counted_and_none_is_mqasyncs(rabbitmq_server: RabbitMQ) -> None:
    try:
        frameworks.install()
    except BrokerUnavailable as error:
        unavailable(error)
    rows = [line for line in bench(rabbitmq_server, "losses").splitlines() if "as first shown" in line]
    lost = {row.split()[0]: re.findall(r"\d+ of \d+", row) for row in rows}
    assert lost == {"mqasync": ["0 of 30", "0 of 0"], "faststream": ["10 of 30", "30 of 30"]}
