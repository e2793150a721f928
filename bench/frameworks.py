"""mqasync beside the frameworks a user would pick instead, each a program of its own (bench/peers) on one RabbitMQ."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import venv
from pathlib import Path

import aio_pika

from tests.brokers import BrokerUnavailable

from .peers.common import BODY, EDGE, IN_FLIGHT, PREFETCH
from .report import Figure, Report

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
ENVIRONMENT = CACHE / f"mqasync-peers-{sys.implementation.cache_tag}"
REQUIREMENTS = Path(__file__).with_name("peers-requirements.txt")
PEERS = {
    "mqasync": "30 handlers at once.",
    "faststream": "up to 100 handlers at once, without the two lines it logs for each message; a message whose handler"
    " raises is rejected, which drops it where the queue has no dead letter exchange.",
    "taskiq": "up to 100 tasks at once, through taskiq-aio-pika; a message that no queue takes is lost without an"
    " error, and one whose task raises is acknowledged unless it asks for a retry.",
    "celery": "`--pool solo`, one task at a time; a message that no queue takes is lost"
    " without an error, and one whose task raises is acknowledged unless it asks for a retry.",
    "dramatiq": "8 threads; the same guarantee, but dead letters are dropped after a week.",
    "pika": "by hand, one message at a time; the same guarantee, but reconnecting, retries and dead letters are left"
    " to its user.",
}
"""How each works here and what it cannot guarantee, by the name of its program, queue and distribution."""

ASYNCIO = ("mqasync", "faststream", "taskiq")


def install() -> str:
    """The Python of the frameworks' environment, with just the versions of REQUIREMENTS."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.with_name("pip").exists():
        venv.create(ENVIRONMENT, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BrokerUnavailable(f"{' '.join(pip)} failed: {done.stderr.strip()[-300:]}")
    return str(python)


def version_of(python: str, distribution: str) -> str:
    """What is installed there."""
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    return subprocess.check_output([python, "-c", code], text=True).strip()


async def waiting(url: str, queue: str) -> int | None:
    """Messages in a queue that are not with a consumer."""
    async with await aio_pika.connect(url) as connection:
        declared = await (await connection.channel()).declare_queue(queue, passive=True)
        return declared.declaration_result.message_count


def measure(figure: Figure, python: str, name: str, action: str, url: str, count: int, at_once: int) -> None:
    """Run one program to its end, see that all its messages are in its queue, or none, and add what it took."""
    command = [python, "-m", f"bench.peers.{name}", action, url, str(count), str(at_once)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} could not {action}: {done.stderr}")
    expected = count + 2 * EDGE if action == "publish" else 0
    if url.startswith("amqp") and (found := asyncio.run(waiting(url, f"{name}.q"))) != expected:
        raise RuntimeError(f"{name} was to {action} until {expected} messages are left, but there are {found}")
    cpu, seconds = map(float, done.stdout.splitlines()[-1].split())
    figure.cpu.append(cpu / count * 1e6)
    figure.rate.append(count / seconds)


def run(report: Report, url: str, rounds: int, count: int) -> None:
    """Measure all in turns; what a program has published it then consumes."""
    about = (
        f"Each a process of its own, with uvloop where it is asyncio, on a durable classic queue: persistent messages"
        f" that carry {len(BODY)} bytes of JSON, confirmed; prefetch {PREFETCH}, acknowledged after the handler, which"
        f" does nothing. Those that are not asyncio have no call that publishes more than one at a time. CPU is that of"
        f" the process for {count:,} messages in the middle of {count + 2 * EDGE:,}, so without start and end. Medians"
        f" of {rounds} interleaved rounds, in which what was published is consumed each time."
    )
    report.heading("RabbitMQ beside other frameworks", about)
    pythons = dict.fromkeys(PEERS, install()) | {"mqasync": sys.executable}
    titles = {name: f"{name} {version_of(python, name)}" for name, python in pythons.items()}
    publish = {
        1: {name: Figure(title) for name, title in titles.items()},
        IN_FLIGHT: {name: Figure(titles[name]) for name in ASYNCIO},
    }
    consume = {name: Figure(title) for name, title in titles.items()}
    for _ in range(rounds):
        for at_once, figures in publish.items():
            for name, figure in figures.items():
                measure(figure, pythons[name], name, "publish", url, count, at_once)
                measure(consume[name], pythons[name], name, "consume", url, count, at_once)
    for at_once, figures in publish.items():
        report.compare(f"publish confirmed, {at_once} at a time", list(figures.values()), {})
    report.compare("consume, handle, acknowledge", list(consume.values()), {})
    for name, note in PEERS.items():
        report.say(f"{name}: {note}")


def on_redis(report: Report, url: str, rounds: int, count: int) -> None:
    """IntelMQ, which is made for Redis, on one that writes each command to its disk."""
    about = (
        f"As above, but on Redis with `appendfsync always`: {count:,} messages, medians of {rounds} rounds. A bot of"
        " IntelMQ handles one message at a time and checks its fields; mqasync handles up to 30 at once."
    )
    report.heading("Redis beside IntelMQ", about)
    pythons = {"mqasync": sys.executable, "intelmq": install()}
    actions = {"publish": "publish, 1 at a time", "consume": "consume, handle, acknowledge"}
    figures = {
        action: {name: Figure(f"{name} {version_of(python, name)}") for name, python in pythons.items()}
        for action in actions
    }
    for _ in range(rounds):
        for name, python in pythons.items():
            for action in actions:
                measure(figures[action][name], python, name, action, url, count, 1)
    for action, title in actions.items():
        report.compare(title, list(figures[action].values()), {})
