"""services/bridge.py: messages go from broker to broker, each in a process of its own, and arrive as they were."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from mqasync import Message, Out, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import ExchangeSettings, Settings
from mqasync.message import new_id
from services import bridge

from .conftest import url_of
from .waiting import until
from .working import working

ROOT = Path(__file__).parents[1]
MESSAGES = int(os.environ.get("MQASYNC_BRIDGE_MESSAGES", "300"))  # 10,000 take minutes: SQS's stand-in is slow
WAY = ["rabbitmq", "kafka", "redis", "sqs", "activemq", "rabbitmq"]


@pytest.fixture
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """By kind, the URL of each broker of the way."""
    return {kind: url_of(kind, request, tmp_path) for kind in WAY}


@pytest.fixture
async def hops(urls: dict[str, str], tmp_path: Path) -> AsyncIterator[tuple[list[str], Brokers]]:
    """An exchange on each broker of the way, and the brokers."""
    names = [f"hop{number}-{new_id()[:8]}" for number in range(len(WAY))]
    exchanges = {name: ExchangeSettings(broker=kind) for name, kind in zip(names, WAY, strict=True)}
    lines = ["brokers:", *(f"  {kind}: {url}" for kind, url in urls.items()), "exchanges:"]
    lines += [f"  {name}: {{broker: {own.broker}}}" for name, own in exchanges.items()]
    (tmp_path / "config.yml").write_text("\n".join(lines))
    brokers = Brokers(Settings(brokers=urls, exchanges=exchanges))
    yield names, brokers
    await brokers.close()


@contextmanager
def bridging(source: str, target: str, directory: Path) -> Iterator[None]:
    """`mqasync run services.bridge`, its queue declared."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BRIDGE_FROM": source, "BRIDGE_TO": target}
    command = [sys.executable, "-m", "mqasync", "run", "services.bridge"]
    with subprocess.Popen(command, cwd=directory, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        told = []
        for line in process.stderr:
            told.append(line)
            if f"consumer {source}/bridge" in line:
                break
        else:
            pytest.fail("".join(told))
        try:
            yield
        finally:
            process.terminate()
            process.stderr.read()


@pytest.mark.timeout(400)
async def test_messages_arrive_as_they_were_by_way_of_other_brokers(
    hops: tuple[list[str], Brokers], tmp_path: Path
) -> None:
    names, brokers = hops
    arrived: dict[str, Message] = {}
    sent = [
        Message(body=b"\xff%d" % n, exchange=names[0], key=f"k{n % 7}", headers={"n": str(n), "text": "Füße"})
        for n in range(MESSAGES)
    ]

    @consumer(exchange=names[-1], id="end", concurrency=50)
    async def end(body: bytes, message: Message) -> None:
        arrived[message.id] = message

    async with working(brokers, end), AsyncExitStack() as bridges:
        for source, target in reversed(list(pairwise(names))):
            await asyncio.to_thread(bridges.enter_context, bridging(source, target, tmp_path))
        await asyncio.gather(*map(brokers.publish, sent))
        await until(lambda: len(arrived) == len(sent), "all have arrived", patience=250)
    for message in sent:
        there = arrived[message.id]
        assert (there.body, there.key, there.headers) == (message.body, message.key, message.headers)


async def test_the_copy_is_the_same_message() -> None:
    message = Message(body=b"x", exchange="a", key="k", headers={"h": "1"})
    assert await bridge.copy(b"x", message) == Out(b"x", id=message.id, key="k", headers={"h": "1"})
