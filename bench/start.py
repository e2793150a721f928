"""What it costs to start: the time of `import mqasync`, and the memory of a service that idles."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from .report import Report, verdict

SERVICE = """
from mqasync import consumer

{}
"""
CONSUMER = """
@consumer(exchange="idle", id="q{}")
async def handler{}(body): ...
"""
BASELINE = """
import asyncio, sys, aio_pika

async def main():
    connection = await aio_pika.connect(sys.argv[1])
    print("ready", file=sys.stderr, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def seconds_to_import(module: str, runs: int) -> float:
    """The median time of `import module` in a fresh interpreter."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(runs)]
    return statistics.median(times)


def megabytes_of(command: list[str], directory: Path, ready: str) -> float:
    """The resident memory of a process, a second after it has printed `ready` to stderr."""
    with subprocess.Popen(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if ready in line:
                break
        time.sleep(1.0)
        megabytes = resident(process.pid)
        process.terminate()
        process.stderr.read()
    return megabytes


def resident(process: int) -> float:
    """The resident memory of a process, in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return int(kilobytes) / 1024


def run(report: Report, url: str, directory: Path, runs: int) -> None:
    """Measure both."""
    own, base = seconds_to_import("mqasync", runs), seconds_to_import("asyncio", runs)
    loaded = subprocess.check_output([sys.executable, "-c", "import sys, mqasync; print('aiormq' in sys.modules)"])
    (directory / "idle.py").write_text(SERVICE.format("".join(CONSUMER.format(n, n) for n in range(10))))
    (directory / "baseline.py").write_text(BASELINE)
    service = megabytes_of([sys.executable, "-m", "mqasync", "run", "idle", "--broker", url], directory, "idle/q9")
    baseline = megabytes_of([sys.executable, "baseline.py", url], directory, "ready")
    report.heading("Start")
    own_seconds, own_memory = f"{own:.3f}{verdict(own, 0.12)}", f"{service:.0f}{verdict(service, 60)}"
    report.table(
        ["", "mqasync", "beside it", "ratio"],
        [
            ["seconds to import, beside asyncio", own_seconds, f"{base:.3f}", f"{own / base:.1f}"],
            ["MB, 10 idle consumers, beside aio-pika", own_memory, f"{baseline:.0f}", f"{service / baseline:.1f}"],
        ],
    )
    report.say(f"`import mqasync` {'loads' if loaded == b'True' else 'does not load'} aiormq.")
