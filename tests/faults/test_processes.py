"""`mqasync run` killed, stopped twice, or frozen while messages flow: another one, or the next, does the work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..conftest import url_of
from .conftest import Record
from .load import FEW, MESSAGES, Load

SINK = """
import os
from mqasync import consumer

file = os.open("handled", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

@consumer(exchange="{exchange}", id="file", concurrency=20)
async def sink(body: dict):
    os.write(file, b"%d\\n" % body["n"])
"""


@contextmanager
def service(directory: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """`mqasync run` of the sink."""
    environment = {**os.environ, "MQASYNC_BROKER": url}
    with subprocess.Popen(
        [sys.executable, "-m", "mqasync", "run", "file_sink"],
        cwd=directory,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        if process.poll() is None:
            process.terminate()
        assert process.stderr
        process.stderr.read()


def handled(directory: Path) -> Counter[int]:
    file = directory / "handled"
    return Counter(json.loads(f"[{','.join(file.read_text().split())}]")) if file.exists() else Counter()


STRIKES = {
    "consuming process killed": [signal.SIGKILL],
    "consuming process stopped twice (Ctrl-C, Ctrl-C)": [signal.SIGINT, signal.SIGINT],
}


@pytest.mark.parametrize("fault", STRIKES)
@pytest.mark.parametrize("kind", ["SQLite", "RabbitMQ", "SQS"])
def test_a_process_that_ends_in_the_middle_loses_nothing(
    kind: str, fault: str, request: pytest.FixtureRequest, tmp_path: Path, record: Record
) -> None:
    url = url_of(kind.lower(), request, tmp_path)
    messages = FEW if kind == "SQS" else MESSAGES
    load = Load(url, messages, "uvloop")
    (tmp_path / "file_sink.py").write_text(SINK.format(exchange=load.exchange))
    for part in (0.1, 0.3, 0.5, 1.0):
        with service(tmp_path, url) as process:
            if part == 0.1:
                load.until(lambda: queue_exists(process), "it consumes")
                load.start()
            aim = int(part * messages)
            load.until(lambda aim=aim: len(handled(tmp_path)) >= aim, f"{aim} are handled")  # type: ignore[misc]
            if part < 1.0:
                for number in STRIKES[fault]:
                    process.send_signal(number)
                    time.sleep(0.3)  # two within 0.2 s count as one: `timeout` and its like send two
                process.wait(10)
    load.finish()
    load.ledger.processed = handled(tmp_path)
    load.ledger.buried.clear()
    record(kind, f"{fault}, 3 times", [load], None)


def queue_exists(process: subprocess.Popen[str]) -> bool:
    """It says what is bound to what when its queue is there."""
    assert process.stderr
    return any("consumer " in line for line in iter(process.stderr.readline, ""))
