"""A server that speaks SNS and SQS: moto, in an environment of its own, since its botocore is not ours.

By hand: `python -m tests.servers.sqs` starts one, prints its URL and stops it on Ctrl-C.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..brokers import BrokerUnavailable
from .server import Server, running

MOTO = "moto[server]==5.2.5"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mqasync-moto"
PROGRAM = Path(__file__).parent / "moto_one_by_one.py"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""What the tests put into the environment: moto takes any."""


def install() -> Path:
    """The Python of moto's environment, made where it is missing."""
    environment = CACHE / MOTO.rpartition("==")[2]
    python = environment / "bin" / "python"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the suite runs in more than one process
        if not (environment / "ready").exists():
            shutil.rmtree(environment, ignore_errors=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", MOTO]
            for command in ([sys.executable, "-m", "venv", str(environment)], pip):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise BrokerUnavailable(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
            (environment / "ready").touch()
    return python


class Moto(Server):
    """One private moto server; it keeps everything in memory, so `kill` loses what it holds."""

    name = "moto"

    def __init__(self, directory: Path, python: Path) -> None:
        super().__init__(directory)
        self.python = python
        self.environment = CREDENTIALS
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.url = f"sqs://eu-central-1?endpoint={self.endpoint}&lease=3&wait=1"

    def start(self) -> None:
        """Return when it answers."""
        command = [str(self.python), str(PROGRAM), "-H", "127.0.0.1", "-p", str(self.port)]
        self.launch(command, self._answers, cwd=self.directory)

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5.0):
            return True
        return False


@contextmanager
def moto() -> Iterator[Moto]:
    """A running moto, installed first where it is missing."""
    python = install()
    with running(lambda directory: Moto(directory, python)) as server:
        yield server


if __name__ == "__main__":
    with moto() as started:
        print(started.url, flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.exit(0)
