"""A Redis that keeps everything on disk, for its transport's tests; asserts nothing."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..brokers import START_SECONDS, BrokerUnavailable, Redis, apt_install

DURABLE = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")


class DurableRedis(Redis):
    """One private Redis server that survives being killed; `arguments` are those of redis-server."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        super().__init__(directory)
        self.arguments = arguments or DURABLE

    def start(self) -> None:
        """Return when it has read its data and answers."""
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        with (self.directory / "console").open("ab") as console:
            self.process = subprocess.Popen(
                [*command, *self.arguments], stdout=console, stderr=console, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "console").read_text(errors="replace")
                raise BrokerUnavailable(f"Redis did not start: {log[-600:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """With TLS or a password it answers too, with an error."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return not connection.recv(100).startswith(b"-LOADING")
        return False

    def command(self, *words: str) -> str:
        """What redis-cli prints."""
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    def kill(self) -> None:
        """SIGKILL it; what it has confirmed stays on the disk."""
        super().kill()

    def stop(self) -> None:
        """End it if it runs."""
        if self.process and self.process.poll() is None:
            self.kill()


@contextmanager
def durable_redis(*arguments: str) -> Iterator[DurableRedis]:
    """A running Redis, installed first where it is missing."""
    if not shutil.which("redis-server"):
        apt_install("redis-server")
    with tempfile.TemporaryDirectory(prefix="mqasync-redis-") as directory:
        server = DurableRedis(Path(directory), *arguments)
        try:
            server.start()
            yield server
        finally:
            server.stop()
