"""`run --workers` and `--reload`: processes that do the work, started, watched and ended; no work is done here.

A worker is the same command once more, with a socket to its parent in WORKER_SOCKET: through it the
worker says when it is at work, and at its end of file the worker knows that its parent is gone.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self

from ..errors import ConfigurationError

log = logging.getLogger("mqasync")

WORKER = "MQASYNC_WORKER"
"""The environment variable with the worker's number, 0 for the first; services may read it."""
WORKER_SOCKET = "MQASYNC_WORKER_SOCKET"

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a dead worker is started again
LONG_SECONDS = 60.0  # a worker that has run for so long begins with FIRST_PAUSE again
MISTAKE = 2
DRAINED = (0, -signal.SIGTERM)  # the latter where it had not begun yet
SUFFIXES = (".py", ".yml", ".yaml")
TOGETHER_MS = 200  # changes with less time between them are one


class Worker:
    """This process, if it is a worker."""

    def __init__(self, number: int, parent: int) -> None:
        self.number = number
        self._parent = parent  # descriptor of the socket to it, open until this process ends

    @classmethod
    def this(cls) -> Self | None:
        """What the parent has put into the environment; None if there is no parent. To be asked once."""
        descriptor = os.environ.pop(WORKER_SOCKET, None)  # what a service starts is no worker
        if descriptor is None:
            return None
        os.set_inheritable(int(descriptor), False)
        return cls(int(os.environ[WORKER]), int(descriptor))

    def sign_logs(self) -> None:
        """Begin every log line with the worker's number."""

        def sign(record: logging.LogRecord) -> bool:
            record.msg = f"worker {self.number}: {record.msg}"
            return True

        for handler in logging.getLogger().handlers:
            handler.addFilter(sign)

    def watch_parent(self) -> None:
        """Drain when the parent is gone, however it ended."""
        asyncio.get_running_loop().add_reader(self._parent, self._on_parent_gone)

    def _on_parent_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._parent)
        log.warning("the parent process is gone: draining")
        os.kill(os.getpid(), signal.SIGTERM)

    def at_work(self) -> None:
        """Tell the parent that everything is opened and declared."""
        with suppress(OSError):  # it is gone
            os.write(self._parent, b"!")


class Workers:
    """`count` of them at work; `code` is the exit code of all after `run`.

    With `reload` they are restarted by a change below the working directory, and not by a crash.
    """

    def __init__(self, count: int, *, reload: bool = False) -> None:
        self.code = 0
        self._count = count
        self._reload = reload
        self._running: dict[Process, socket.socket] = {}
        self._first_at_work = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Start them and wait until all have ended or one has found a mistake; cancelled, drain.

        The others wait for the first: what is wrong with modules, configuration or broker is said once.
        Raises ConfigurationError without `watchfiles`, where it is needed.
        """
        tasks = [asyncio.create_task(self._keep(number)) for number in range(self._count)]
        if self._reload:
            tasks.append(asyncio.create_task(self._restart_after(changes())))
        try:
            with suppress(asyncio.CancelledError):
                for ended in asyncio.as_completed(tasks):
                    self.code = await ended
                    if self.code:
                        break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._terminate()
            for process in list(self._running):
                if await self._end(process) not in DRAINED:
                    self.code = self.code or 1

    async def _restart_after(self, changes: AsyncIterator[str]) -> int:
        async for files in changes:
            log.info("%s changed: restarting", files)
            self._first_at_work.clear()
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            self._terminate()
        return 0

    def _terminate(self) -> None:
        """Let all of them drain."""
        for process in self._running:
            with suppress(ProcessLookupError):
                process.terminate()

    def kill(self) -> None:
        """End all immediately; messages in flight are redelivered."""
        for process in self._running:
            with suppress(ProcessLookupError):
                process.kill()

    async def _keep(self, number: int) -> int:
        """Run one worker, again after each crash or change; its exit code at last."""
        pause, anew = FIRST_PAUSE, False
        while True:
            if number:
                await self._first_at_work.wait()
            changed, started = self._changed, time.monotonic()
            process, link = await self._start(number)
            if await asyncio.get_running_loop().sock_recv(link, 1):
                self._first_at_work.set()
            code = await self._end(process)
            how = f"worker {number} (process {process.pid}) {ending(code)}"
            if self._reload and (anew or code != MISTAKE):
                if code not in (MISTAKE, *DRAINED):
                    log.error("%s", how)
                if not changed.is_set():
                    log.info("waiting for a change")
                anew = await changed.wait()
            elif code in (0, MISTAKE):
                self._first_at_work.set()
                return code
            else:
                if time.monotonic() - started > LONG_SECONDS:
                    pause = FIRST_PAUSE
                log.error("%s; restarting it in %g s", how, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _start(self, number: int) -> tuple[Process, socket.socket]:
        link, workers_end = socket.socketpair()
        link.setblocking(False)
        descriptor = workers_end.fileno()
        with workers_end:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *sys.orig_argv[1:],
                env=os.environ | {WORKER: str(number), WORKER_SOCKET: str(descriptor)},
                pass_fds=[descriptor],
                start_new_session=True,  # the terminal's Ctrl-C is for the parent, which passes it on once
            )
        self._running[process] = link
        return process, link

    async def _end(self, process: Process) -> int:
        """Wait for it; its exit code."""
        code = await process.wait()
        self._running.pop(process).close()
        return code


def ending(code: int) -> str:
    """How a process ended, in words; `code` is negative for a signal."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


async def changes() -> AsyncIterator[str]:
    """Which .py and .yml files here change, as it happens. Raises ConfigurationError without `watchfiles`."""
    try:
        from watchfiles import DefaultFilter, awatch
    except ModuleNotFoundError as error:
        raise ConfigurationError("--reload needs watchfiles: pip install 'mqasync[reload]'") from error
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    ignored = DefaultFilter()
    async for changed in awatch(
        os.curdir,
        watch_filter=lambda change, path: path.endswith(SUFFIXES) and ignored(change, path),
        step=TOGETHER_MS,
        ignore_permission_denied=True,
    ):
        names = {os.path.relpath(path) for _, path in changed}  # noqa: ASYNC240, it asks no disk
        yield ", ".join(sorted(names))
