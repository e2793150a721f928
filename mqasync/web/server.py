"""The server behind `run --http`, by aiohttp: health for probes, metrics for Prometheus; the page is in page.py."""

from typing import Self

from aiohttp import web

from ..errors import ConfigurationError
from ..operate.overview import overview
from ..service.runner import Runner
from .metrics import Metrics
from .page import Page


def address(text: str, worker: int) -> tuple[str | None, int]:
    """Host, or None for every address of the machine, and port; each worker has its own.

    From `8080`, `:8080`, `127.0.0.1:8080` or `[::1]:8080`. Raises ConfigurationError.
    """
    host, _, port = text.rpartition(":")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigurationError(f"--http {text!r} is not an address; it takes PORT or HOST:PORT: 127.0.0.1:8080")
    return host.strip("[]") or None, int(port) + worker


class Server:
    """`async with Server(...)`: it answers inside the block, before and while the runner works.

    Entering raises ConfigurationError if it cannot listen on the address.
    """

    def __init__(self, address: tuple[str | None, int], runner: Runner, metrics: Metrics, replay: bool) -> None:
        self._host, self._port = address
        self._runner = runner
        self._metrics = metrics
        self.app = web.Application()
        self.app.router.add_get("/health/live", self._live)
        self.app.router.add_get("/health/ready", self._ready)
        self.app.router.add_get("/metrics", self._scrape)
        Page(self.app, runner, replay, self._host)

    async def __aenter__(self) -> Self:
        self._serving = web.AppRunner(self.app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._serving.setup()
        try:
            await web.TCPSite(self._serving, self._host, self._port).start()
        except OSError as error:
            await self._serving.cleanup()
            where = f"{self._host or ''}:{self._port}"
            raise ConfigurationError(f"cannot listen on --http {where}: {error.strerror or error}") from error
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._serving.cleanup()

    async def _live(self, request: web.Request) -> web.Response:
        """200 as long as the event loop runs."""
        return web.json_response({"live": True})

    async def _ready(self, request: web.Request) -> web.Response:
        """200 while every broker accepts messages and every consumer really consumes, else 503 and why.

        A failing producer is reported, but is no reason to take the process's consumers out of service.
        """
        health = self._runner.health()
        ready = self._runner.started and health.ready
        body = {
            "ready": ready,
            "started": self._runner.started,
            "brokers": {name: broker.state for name, broker in health.brokers.items()},
            "consuming": {name: consumer.consuming for name, consumer in health.consumers.items()},
            "failing": health.failing,
        }
        return web.json_response(body, status=200 if ready else 503)

    async def _scrape(self, request: web.Request) -> web.Response:
        names = [(channel.exchange, channel.id) for channel in self._runner.channels if self._runner.started]
        queues = await overview(self._runner.brokers, names, ())
        text = self._metrics.text(self._runner.health(), queues)
        return web.Response(body=text, content_type="text/plain", charset="utf-8")
