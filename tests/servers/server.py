"""What the servers of the tests have in common: started, waited for, frozen, killed; no broker's own ways are here."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from ..brokers import START_SECONDS, BrokerUnavailable, free_port


class Server:
    """One private server on a port and a data directory of its own; a subclass says how it is started."""

    name = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it can be used."""
        raise NotImplementedError

    def launch(self, command: Sequence[str], ready: Callable[[], bool], **how: Any) -> None:
        """Start `command` and wait until it is `ready()`. Raises BrokerUnavailable, with the end of what it printed."""
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(command, stdout=console, stderr=console, start_new_session=True, **how)
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BrokerUnavailable(f"{self.name} did not start: {self.why()}")
            time.sleep(0.05)

    @property
    def console(self) -> Path:
        """The file of what it printed since its start."""
        return self.directory / "console"

    def why(self) -> str:
        """What it said last."""
        return self.console.read_text(errors="replace")[-1000:]

    def accepts(self) -> bool:
        """Somebody listens on its port."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
            return True
        return False

    def family(self) -> list[psutil.Process]:
        """Its first process and all that this has started."""
        assert self.process
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def pause(self) -> None:
        """SIGSTOP: it accepts and does not answer, until `go_on` or `kill`."""
        for process in self.family():
            process.suspend()

    def go_on(self) -> None:
        """SIGCONT."""
        for process in self.family():
            process.resume()

    def kill(self) -> None:
        """SIGKILL, as a power cut would end it; what the system has in its page cache stays."""
        family = self.family()  # the first one first, or it would start others again
        for process in family:
            process.kill()
        assert self.process
        self.process.wait()
        psutil.wait_procs(family, timeout=START_SECONDS)

    def stop(self) -> None:
        """End it, if it runs."""
        if self.process and self.process.poll() is None:
            self.kill()


Kind = TypeVar("Kind", bound=Server)


@contextmanager
def running(make: Callable[[Path], Kind]) -> Iterator[Kind]:
    """Make a server in a directory of its own, start it, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="mqasync-", ignore_cleanup_errors=True) as directory:
        server = make(Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.stop()
