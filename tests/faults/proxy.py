"""Proxy: a TCP proxy on loopback that breaks connections in the ways networks do; it asserts nothing."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Self

UP, DOWN = "to the broker", "from the broker"
FRAME_END = 0xCE  # the last octet of every AMQP frame


class Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> None:
        self.writers = {DOWN: client, UP: broker}
        self.flows = {UP: asyncio.Event(), DOWN: asyncio.Event()}
        for flow in self.flows.values():
            flow.set()
        self.withheld = b""  # what comes from the broker with this in it gets lost
        self.spoil: dict[str, str] = {}  # direction: what is done to its next frame, "cut" or "corrupt"


class Proxy:
    """`with Proxy(port) as proxy`: connections to proxy.port go to `port` at 127.0.0.1, in a thread of its own.

    All faults but `delay`, `target` and `refusing` concern the connections that exist; later ones are sound.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.delay = 0.0  # seconds, for every piece of data in either direction
        self.refusing = False
        self.port = 0
        self.accepted = 0
        self._links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        self._end_all(reset=True)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _on_links(self, change: Callable[[Link], object]) -> None:
        async def work() -> None:
            for link in list(self._links):
                change(link)

        self._run(work())

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            if self.refusing:
                raise ConnectionError
            from_broker, broker = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            client.close()
            return
        link = Link(client, broker)
        self._links.add(link)
        pipes = (self._pipe(link, UP, reader), self._pipe(link, DOWN, from_broker))
        await asyncio.gather(*pipes, return_exceptions=True)
        self._links.discard(link)
        for writer in link.writers.values():
            writer.close()

    async def _pipe(self, link: Link, direction: str, reader: asyncio.StreamReader) -> None:
        writer = link.writers[direction]
        try:
            while data := await reader.read(65536):
                await link.flows[direction].wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                if link.withheld and direction == DOWN:
                    data = re.sub(link.withheld, b"", data)
                    if not data:
                        continue
                if data[-1] == FRAME_END and (spoil := link.spoil.pop(direction, "")):
                    data = data[:-1] if spoil == "cut" else data[:-1] + b"\0"
                    writer.write(data)
                    await writer.drain()
                    if spoil == "cut":
                        end(link, reset=True)
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            if link.flows[direction].is_set():
                writer.close()  # the end of one direction is the end of both: AMQP knows no half-closed connection

    def _end_all(self, reset: bool) -> None:
        for link in self._links:
            end(link, reset)

    def drop(self) -> None:
        """Reset every connection (RST), as a crashed firewall does."""
        self._on_links(lambda link: end(link, reset=True))

    def finish(self) -> None:
        """Close every connection in order (FIN), as a load balancer that is shut down does."""
        self._on_links(lambda link: end(link, reset=False))

    def black_hole(self, *directions: str) -> None:
        """Let nothing through any more; nobody is told."""
        self._on_links(lambda link: stop(link, directions))

    def half_open(self) -> None:
        """The broker sees the connection closed, the client does not."""

        def change(link: Link) -> None:
            stop(link, (UP, DOWN))
            link.writers[UP].transport.abort()

        self._on_links(change)

    def withhold(self, pattern: bytes) -> None:
        """Of what comes from the broker, lose what `pattern` matches, and let the rest through."""
        self._on_links(lambda link: setattr(link, "withheld", pattern))

    def spoil(self, what: str, direction: str) -> None:
        """`cut` the next frame in that direction one byte short and reset, or `corrupt` its last byte."""
        self._on_links(lambda link: link.spoil.__setitem__(direction, what))


def end(link: Link, reset: bool) -> None:
    """Close both sides."""
    for writer in link.writers.values():
        if reset:
            raw = writer.get_extra_info("socket")
            with suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()


def stop(link: Link, directions: Iterable[str]) -> None:
    """Let nothing through in these directions any more."""
    for direction in directions:
        link.flows[direction].clear()
