"""`mqasync run` killed, stopped twice, or frozen while messages flow: another one, or the next, does the work."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from ..commands import CommandLine
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
    cli = CommandLine(tmp_path, url_of(kind.lower(), request, tmp_path))
    messages = FEW if kind == "SQS" else MESSAGES
    load = Load(cli.url, messages, "uvloop")
    cli.file("file_sink.py", SINK.format(exchange=load.exchange))
    for part in (0.1, 0.3, 0.5, 1.0):
        service = cli.start("run", "file_sink")
        if part == 0.1:
            service.says("consumer ")
            load.start()
        aim = int(part * messages)
        load.until(lambda aim=aim: len(handled(tmp_path)) >= aim, f"{aim} are handled")  # type: ignore[misc]
        for number in STRIKES[fault] if part < 1.0 else [signal.SIGTERM]:
            service.send(number)
            time.sleep(0.3)  # two within 0.2 s count as one: `timeout` and its like send two
        service.ends()
    load.finish()
    load.ledger.processed = handled(tmp_path)
    load.ledger.dead_lettered.clear()
    record(kind, f"{fault}, 3 times", [load], None)
