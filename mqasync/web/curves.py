"""Curves: what each queue of this process did in the last 15 minutes; they are drawn in the browser, by page.js."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from aiohttp import web

from ..operate.overview import overview
from ..service.runner import Runner

SECONDS = 10.0  # between two points
POINTS = 90
MOST_ASKED = 50  # a process with more queues does not ask its brokers how many messages wait in each


class Curves:
    """While `app` serves, a point every SECONDS for each queue that `runner` consumes; a few KB of memory in all."""

    def __init__(self, app: web.Application, runner: Runner) -> None:
        self._runner = runner
        self._handled: dict[str, int] = {}
        # by queue: handled a second, and waiting
        self._points = defaultdict[str, deque[tuple[float, int | None]]](partial(deque, maxlen=POINTS))
        app.cleanup_ctx.append(self._at_work)

    async def _at_work(self, app: web.Application) -> AsyncIterator[None]:
        looking = asyncio.create_task(self._look())
        yield
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(SECONDS)
            if not self._runner.started:
                continue
            report = self._runner.health()
            queues = [(one.exchange, one.id) for one in report.consumers.values()]
            rows = await overview(self._runner.brokers, queues if len(queues) <= MOST_ASKED else (), [report])
            waiting = {row.queue: row.waiting for row in rows}
            for queue, consumer in report.consumers.items():
                handled = consumer.handled - self._handled.get(queue, 0)
                self._points[queue].append((handled / SECONDS, waiting.get(queue)))
                self._handled[queue] = consumer.handled

    def now(self) -> dict[str, Any]:
        """By queue, oldest point first: messages handled per second, and those waiting, None where unknown."""
        return {
            queue: {"per second": [rate for rate, _ in points], "waiting": [waiting for _, waiting in points]}
            for queue, points in self._points.items()
        }
