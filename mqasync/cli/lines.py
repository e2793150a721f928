"""Lines in from a file or pipe and out to stdout without ever blocking the event loop; no message, no broker."""

from __future__ import annotations

import asyncio
import os
import select
import sys
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
    number, rest = 0, b""
    while chunk := await chunks.get():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                yield number, line
    if rest.strip():
        yield number + 1, rest


async def write_line(line: bytes) -> None:
    """Write `line` to stdout at once; while a full pipe takes nothing, the loop goes on. Raises BrokenPipeError."""
    data = line + b"\n"
    for start in range(0, len(data), PIPE_BUF):
        await _writable()
        os.write(sys.stdout.fileno(), data[start : start + PIPE_BUF])


async def _writable() -> None:
    stdout = sys.stdout.fileno()
    if select.select([], [stdout], [], 0)[1]:
        return
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(stdout, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(stdout)
