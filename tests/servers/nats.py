"""A real NATS server with JetStream for tests: built or installed if missing, started, killed; asserts nothing."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..brokers import BrokerUnavailable, apt_install
from .server import Server, running

VERSION = "v2.15.2"
OLDEST = (2, 10)  # what the transport needs
CACHE = Path.home() / ".cache" / "mqasync-nats"


def program() -> str:
    """The server's program: the pinned version built by Go, else what is installed, else Debian's.

    Debian 12 has 2.9.10, which is too old: it knows one filter for a consumer only.
    """
    built = CACHE / VERSION / "nats-server"
    if not built.exists() and shutil.which("go"):
        _build(built.parent)
    if built.exists():
        return str(built)
    if not shutil.which("nats-server"):
        apt_install("nats-server")
    found = shutil.which("nats-server") or "nats-server"
    told = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(map(int, re.findall(r"\d+", told)[:2]))
    if version < OLDEST:
        raise BrokerUnavailable(f"{told.strip()} is too old, and building a newer one takes Go")
    return found


def _build(directory: Path) -> None:
    """Build the pinned version into `directory`, once for all processes of the suite."""
    directory.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / "nats-server").exists():
            return
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            command = ["go", "install", f"github.com/nats-io/nats-server/v2@{VERSION}"]
            environment = {**os.environ, "GOBIN": temporary, "GOTOOLCHAIN": "local"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BrokerUnavailable(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
            (Path(temporary) / "nats-server").rename(directory / "nats-server")


class NATS(Server):
    """One private server with JetStream, synced to the disk, that can be killed and started on the same port and data.

    `settings` are lines of its configuration, such as `max_payload: 2MB` or a whole block, `jetstream` those in
    JetStream's own block; without it there is no JetStream.
    """

    name = "NATS"

    def __init__(self, directory: Path, settings: str = "", jetstream: str | None = "sync_interval: always") -> None:
        super().__init__(directory)
        self.url = f"nats://127.0.0.1:{self.port}"
        block = "" if jetstream is None else f"jetstream {{ store_dir: {directory}/data\n{jetstream} }}"
        (directory / "nats.conf").write_text(f"listen: 127.0.0.1:{self.port}\n{block}\n{settings}\n")

    def start(self) -> None:
        """Return when it says that it is ready."""
        command = [program(), "--config", str(self.directory / "nats.conf")]
        self.launch(command, lambda: b"Server is ready" in self.console.read_bytes())


@contextmanager
def running_nats(settings: str = "", jetstream: str | None = "sync_interval: always") -> Iterator[NATS]:
    """A running NATS server, built or installed first where it is missing."""
    with running(lambda directory: NATS(directory, settings, jetstream)) as server:
        yield server
