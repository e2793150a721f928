"""`mqasync` as a person at a terminal uses it: real processes, waited for by what they print; asserts nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from mqasync import Message
from mqasync.brokers.connection import Connection, load

from . import forks
from .waiting import depth

PATIENCE = 30.0  # seconds; nothing here may take longer
MQASYNC = [sys.executable, "-m", "mqasync"]

T = TypeVar("T")


def eventually(true: Callable[[], bool], what: str) -> None:
    """Wait until `true()`; say `what` did not come about."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)


class Output:
    """What a stream of a process has said so far, by line."""

    def __init__(self, stream: IO[bytes], changed: threading.Condition) -> None:
        self.lines: list[str] = []
        self._stream, self._changed = stream, changed
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                with self._changed:
                    self.lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._changed.notify_all()

    def text(self) -> str:
        """Everything, when the process has ended."""
        self._thread.join(PATIENCE)
        return "\n".join(self.lines)


class Running:
    """One process that runs while the test goes on."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._changed = threading.Condition()
        assert process.stderr
        self.errors = Output(process.stderr, self._changed)
        self.output = Output(process.stdout, self._changed) if process.stdout else self.errors

    def says(self, *texts: str) -> None:
        """Wait until a line of stdout or stderr contains one of `texts`."""

        def found() -> bool:
            return any(text in line for line in [*self.output.lines, *self.errors.lines] for text in texts)

        with self._changed:
            if not self._changed.wait_for(found, PATIENCE):
                raise TimeoutError(f"{texts} are not in\n{self.output.lines}\n{self.errors.lines}")

    def write(self, line: str) -> None:
        """A line to stdin, which stays open."""
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ends(self) -> int:
        """Close stdin, wait for the end and return the exit code."""
        if self.process.stdin:
            self.process.stdin.close()
        return self.process.wait(PATIENCE)

    def stop(self) -> None:
        """End it whatever it does."""
        self.process.kill()
        self.process.wait(PATIENCE)
        for output in (self.output, self.errors):
            output.text()
        if self.process.stdin:
            self.process.stdin.close()


class CommandLine:
    """A directory in which commands are run, on the broker `url`."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("MQASYNC_")}
        self.environment |= {
            "MQASYNC_BROKER": url,
            "MQASYNC_LOG": "human",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": forks.WARNINGS,
        }
        self._running: list[Running] = []

    def file(self, name: str, text: str) -> Path:
        """Write a file there."""
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *arguments: str, stdin: str = "", program: list[str] = MQASYNC) -> subprocess.CompletedProcess[str]:
        """One whole command: forked where Python itself has nothing else to do than usually."""
        if program is MQASYNC and self.environment.keys().isdisjoint(("PYTHONPATH", "PYTHONASYNCIODEBUG")):
            return self._forked(arguments, stdin)
        return subprocess.run(
            [*program, *arguments],
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def _forked(self, arguments: tuple[str, ...], stdin: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as directory:
            files = [Path(directory) / name for name in ("stdin", "stdout", "stderr")]
            for file, text in zip(files, (stdin, "", ""), strict=True):
                file.write_text(text)
            code = forks.run(
                PATIENCE,
                arguments=arguments,
                directory=str(self.directory),
                environment=self.environment,
                files=[str(file) for file in files],
            )
            return subprocess.CompletedProcess(arguments, code, *(file.read_text() for file in files[1:]))

    def start(self, *arguments: str, **streams: Any) -> Running:
        """A command that goes on."""
        given = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        self._running.append(Running(self._popen(*arguments, **given)))
        return self._running[-1]

    @contextmanager
    def piped(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command whose stdout nobody reads but the test, unbuffered; it is killed at the end."""
        with self._popen(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
            try:
                yield process
            finally:
                process.kill()

    def _popen(self, *arguments: str, **given: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*MQASYNC, *arguments], cwd=self.directory, env=self.environment, **given)

    def stop(self) -> None:
        """End everything that was started here."""
        for running in self._running:
            running.stop()

    def declare(self, exchange: str, *ids: str) -> None:
        """Bind queues."""
        for id in ids:
            self._on_broker(lambda transport, id=id: transport.declare(exchange, id))  # type: ignore[misc]

    def publish(self, exchange: str, *bodies: str | bytes) -> None:
        """Put messages into the queues of an exchange."""
        messages = [Message(body=b if isinstance(b, bytes) else b.encode(), exchange=exchange) for b in bodies]
        self._on_broker(lambda transport: transport.publish(exchange, messages))

    def depth(self, exchange: str, id: str) -> int:
        """How many messages are in a queue."""
        return self._on_broker(lambda transport: depth(transport, exchange, id))

    def until_depth(self, exchange: str, id: str, depth: int) -> None:
        """Wait until so many messages are in a queue."""
        deadline = time.monotonic() + PATIENCE
        while (now := self.depth(exchange, id)) != depth:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{exchange}/{id} holds {now} messages, not {depth}")

    def _on_broker(self, operation: Callable[[Connection], Awaitable[T]]) -> T:
        async def work() -> T:
            transport = load(self.url, {})
            await transport.open()
            try:
                return await operation(transport)
            finally:
                await transport.close()

        return asyncio.run(work())
