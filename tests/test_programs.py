"""Programs that use Producer and Consumer: what a lost connection says on stderr, on every broker."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mqasync import BrokerLost, BrokerRefused
from mqasync.message import new_id

from .commands import Running
from .conftest import url_of
from .faults.proxy import Proxy

PROGRAM = """
import asyncio, logging, signal, sys
from mqasync import Consumer, MqasyncError, Producer

class Printer(Consumer):
    async def process(self, message):
        print("handled", flush=True)

async def produce(url):
    async with Producer(exchange="{exchange}", id="p", broker=url) as producer:
        while True:
            try:
                await producer.produce({{}})
            except MqasyncError as error:  # such as that nobody is bound yet
                print(error, flush=True)
            await asyncio.sleep(0.05)

async def main(url):
    # exceptions too: it waits for both, or asyncio.run would cancel once more whichever is still letting go
    both = Printer(exchange="{exchange}", id="q").consume(broker=url), produce(url)
    work = asyncio.gather(*both, return_exceptions=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        pass

if sys.argv[2] == "logging":
    logging.basicConfig()
asyncio.run(main(sys.argv[1]))
"""
SAID = re.compile(  # without Python's objects, calls and tracebacks
    r"(?:\w+:mqasync:)?(?:broker main at \S+(?: is| cannot be reached:|:) [^<>]+|\S+: the subscription is [^<>]+"
    r"|\S+: subscribed again)"
)


def wordless(program: Running) -> list[str]:
    """The lines on stderr that are not as they should be."""
    return [line for line in program.errors.lines if not SAID.fullmatch(line)]


@pytest.mark.parametrize(
    ("kind", "log"),
    [
        ("rabbitmq", "silent"),
        *((kind, "logging") for kind in ("rabbitmq", "redis", "nats", "activemq", "postgres", "sqs")),
    ],
)
def test_a_lost_connection_is_told_in_words_and_nothing_else(
    kind: str, log: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = url_of(kind, request, tmp_path)
    port = re.findall(r":(\d+)", url)[-1]
    (tmp_path / "program.py").write_text(PROGRAM.format(exchange=f"E{new_id()}"))
    with Proxy(int(port)) as proxy:
        program = Running(
            subprocess.Popen(
                [sys.executable, "program.py", url.replace(f":{port}", f":{proxy.port}"), log],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        try:
            program.says("handled")
            for end in (proxy.drop, proxy.finish):
                proxy.refusing = True
                end()
                program.says(" again", "reconnecting")  # what comes a second after another is only counted
                proxy.refusing = False
                program.output.lines.clear()
                program.says("handled")
                assert wordless(program) == [], "\n".join(program.errors.lines)
                program.errors.lines.clear()
            # And when it ends during an outage
            proxy.refusing = True
            proxy.drop()
            program.says(" again", "reconnecting")
            program.send(signal.SIGTERM)
            assert program.ends() == 0
            program.errors.text()
            assert wordless(program) == [], "\n".join(program.errors.lines)
        finally:
            program.stop()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<Channel: "2" at 0x7fc9bdebf430> closed', "Channel closed"),
        ("<aio_pika.robust_channel.RobustChannel object at 0x7F> gone", "RobustChannel gone"),
        ("on <TCPTransport closed=True 0x55d1>; it is closed", "on TCPTransport; it is closed"),
        ("reset: ConnectionResetError(104, 'Connection reset by peer')", "reset: Connection reset by peer"),
        ("reading from host:1 : (104, 'Connection reset by peer')", "reading from host:1 : Connection reset by peer"),
        ("[Errno 111] Connect call failed ('127.0.0.1', 1)", "[Errno 111] Connect call failed ('127.0.0.1', 1)"),
        ("1 < 2 > 0x1, <none>", "1 < 2 > 0x1, <none>"),
    ],
)
def test_what_a_library_says_of_its_objects_is_words(text: str, words: str) -> None:
    for kind in (BrokerLost, BrokerRefused):
        assert str(kind(text)) == words
