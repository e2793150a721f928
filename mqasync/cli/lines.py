"""Lines in from a file or pipe and out to stdout without ever blocking the event loop; no message, no broker."""

import asyncio
import fcntl
import os
import select
import stat
import sys
import termios
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import BinaryIO

CHUNK = 64 * 1024
PIPE_BUF = 4096  # a pipe that select calls writable takes this much without blocking (pipe(7))


async def read_lines(file: BinaryIO) -> AsyncIterator[tuple[int, bytes]]:
    """Number and text of each line that is not blank, as soon as the other end has written it."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=4)

    def read() -> None:
        with suppress(RuntimeError, ValueError):  # the loop or the file was closed meanwhile
            while True:
                chunk = os.read(file.fileno(), CHUNK)
                asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()
                if not chunk:
                    return

    # a daemon: a read that waits for a terminal must not keep the process alive
    threading.Thread(target=read, daemon=True).start()
    number = 0
    unfinished: list[bytes] = []
    while chunk := await chunks.get():
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            number += 1
            line = b"".join([*unfinished, end])
            unfinished.clear()
            if line.strip():
                yield number, line
        unfinished.append(rest)
    line = b"".join(unfinished)
    if line.strip():
        yield number + 1, line


async def write_line(line: bytes) -> None:
    """Write `line` to stdout; the loop goes on meanwhile. If that is a pipe, its reader has taken the line at the end.

    Raises BrokenPipeError when nobody reads any more.
    """
    stdout = sys.stdout.fileno()
    is_pipe = stat.S_ISFIFO(os.fstat(stdout).st_mode) and hasattr(fcntl, "F_SETPIPE_SZ")
    if is_pipe:
        with suppress(OSError):  # somebody else's lines are in it
            fcntl.fcntl(stdout, fcntl.F_SETPIPE_SZ, PIPE_BUF)  # so it can be written to when it is empty, not before
    data = line + b"\n"
    for start in range(0, len(data), PIPE_BUF):
        await _writable(stdout)
        os.write(stdout, data[start : start + PIPE_BUF])
    if is_pipe and await _writable(stdout) & select.POLLERR:
        unread = fcntl.ioctl(stdout, termios.FIONREAD, bytes(4))  # how many bytes, as an int of C
        if any(unread):
            raise BrokenPipeError


async def _writable(file: int) -> int:
    """Wait until `file` takes something or nobody reads any more; the events that poll(2) reports."""
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    loop = asyncio.get_running_loop()
    while not (events := poll.poll(0)):
        writable = asyncio.Event()
        loop.add_writer(file, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(file)
    return events[0][1]
