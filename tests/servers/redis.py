"""A Redis that keeps everything on disk, for its transport's tests; asserts nothing."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..brokers import apt_install, free_port
from .server import Server, running

FORGETFUL = ("--save", "", "--appendonly", "no")
DURABLE = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")


class DurableRedis(Server):
    """One private Redis server that survives being killed; `arguments` are those of redis-server.

    With `certificates` it speaks TLS on `secure_port`, also with its replicas, to whom it can trust.
    """

    name = "Redis"

    def __init__(self, directory: Path, *arguments: str, certificates: Path | None = None) -> None:
        super().__init__(directory)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.arguments = arguments or DURABLE
        self.secure_port = free_port()
        if certificates:
            own = str(certificates / "127.0.0.1.pem")
            files = ("--tls-ca-cert-file", f"{certificates}/ca.pem", "--tls-cert-file", own, "--tls-key-file", own)
            self.arguments += ("--tls-port", str(self.secure_port), "--tls-replication", "yes", *files)

    def start(self) -> None:
        """Return when it has read its data and answers."""
        here = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        self.launch(["redis-server", *self.arguments, *here], self._answers)

    def _answers(self) -> bool:
        """With TLS or a password it answers too, with an error."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return not connection.recv(100).startswith(b"-LOADING")
        return False

    @contextmanager
    def busy(self) -> Iterator[None]:
        """It runs an endless script, and answers everybody with BUSY."""
        self.command("CONFIG", "SET", "busy-reply-threshold", "10")
        with subprocess.Popen(["redis-cli", "-p", str(self.port), "EVAL", "while true do end", "0"]) as endless:
            try:
                while "BUSY" not in self.command("PING"):
                    time.sleep(0.01)
                yield
            finally:
                self.command("SCRIPT", "KILL")
                endless.wait()

    def command(self, *words: str) -> str:
        """What redis-cli prints."""
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


@contextmanager
def durable_redis(*arguments: str, certificates: Path | None = None) -> Iterator[DurableRedis]:
    """A running Redis, installed first where it is missing."""
    if not shutil.which("redis-server"):
        apt_install("redis-server")
    with running(lambda directory: DurableRedis(directory, *arguments, certificates=certificates)) as server:
        yield server
