"""A process that has imported mqasync and forks for each command, which then is what `python -m mqasync` is; no test.

`run` asks it; a line of JSON is a command, a line of its answer an exit code.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

# uvloop would not close what it warns of, and wait for it for ever, if that were an error
WARNINGS = "error,default::ResourceWarning"


@cache
def server() -> subprocess.Popen[str]:
    """It ends when we do, whose pipe it reads."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MQASYNC_")}
    process = subprocess.Popen(
        [sys.executable, __file__],
        env=environment | {"PYTHONWARNINGS": WARNINGS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(process.communicate)
    return process


def run(patience: float, **command: Any) -> int:
    """The exit code of a command, see `become`. Raises TimeoutError after `patience` seconds."""
    process = server()
    assert process.stdin and process.stdout
    print(json.dumps(command), file=process.stdin, flush=True)
    if not select.select([process.stdout], [], [], patience)[0]:
        os.killpg(process.pid, signal.SIGKILL)
        server.cache_clear()
        said = Path(command["files"][2]).read_text()
        raise TimeoutError(f"{command['arguments']} has not ended within {patience:g} s; it said {said!r}")
    return int(process.stdout.readline())


def become(arguments: list[str], directory: str, environment: dict[str, str], files: list[str]) -> None:
    """Do what `python -m mqasync` does with these arguments; `files` are its stdin, stdout and stderr."""
    for number, file in enumerate(files):
        os.dup2(os.open(file, os.O_RDWR), number)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0], sys.argv[1:] = directory, arguments
    sys.orig_argv = [sys.executable, "-m", "mqasync", *arguments]  # what `--workers` starts again
    runpy.run_module("mqasync", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    import mqasync.cli  # noqa: F401, this is what takes its time

    gc.freeze()  # or each command looks through all of that when it ends
    for line in iter(sys.stdin.readline, ""):
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        else:
            become(**json.loads(line))
