"""The live page of `run --http`: its files, what processes do, and, if allowed, replaying dead letters."""

import asyncio
import hmac
import re
import secrets
import socket
import time
from collections import defaultdict
from contextlib import suppress
from importlib.resources import files
from ipaddress import ip_address
from mimetypes import guess_type
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from ..brokers.broker import Broker
from ..brokers.queues import stats
from ..config.settings import Settings
from ..core.dead_letter import dead_lettered_at
from ..describe.drawing import svg
from ..describe.pipeline import CONSUMER, EXCHANGE, PRODUCER, Node, joined
from ..errors import MqasyncError
from ..message import Message
from ..observe.report import Report, Reports, output
from ..operate.browse import Choice, chosen, reading_of, replayed
from ..operate.overview import QueueRow, overview, process_row, reported
from ..service.runner import Runner
from ..transport import DEAD
from .curves import Curves

LETTERS = 50  # dead letters that are shown
START = 300  # characters of a body or an error
FRESH_SECONDS = 1.0  # so long the brokers are not asked again, whoever looks
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# a picture: its own style is all that it may use
PICTURE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
TOKEN = "X-Mqasync-Token"  # noqa: S105, the name of the header


class Page:
    """Adds its routes to `app`.

    `replay`: bodies of dead letters are shown and can be replayed, if the browser came by an address of this machine,
    as `localhost`, by its host name or by `host`.
    """

    def __init__(self, app: web.Application, runner: Runner, replay: bool, host: str | None) -> None:
        self._runner = runner
        self._live = Live(runner)
        self._curves = Curves(app, runner)
        self._token = secrets.token_urlsafe() if replay else ""
        self._names = {"localhost", socket.gethostname().lower(), (host or "localhost").lower()}
        app.middlewares.append(answering)
        app.on_response_prepare.append(_secure)
        app.router.add_get("/", self._file)
        app.router.add_get("/{name:page\\.(?:css|js|svg)}", self._file)
        app.router.add_get("/status.json", self._status)
        app.router.add_get("/graph.svg", self._graph)
        app.router.add_get("/dead/{exchange}/{id}", self._letters)
        app.router.add_post("/dead/{exchange}/{id}/replay", self._replay)

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "page.html")
        text = files(__package__).joinpath("static", name).read_text(encoding="utf-8")
        text = text.replace("{{token}}", self._token_for(request))
        return web.Response(text=text, content_type=guess_type(name)[0], charset="utf-8")

    async def _status(self, request: web.Request) -> web.Response:
        now = await self._live.now()
        processes = [process_row(report) for report in now.reports]
        return _json({"queues": now.queues, "processes": processes, "curves": self._curves.now()})

    async def _graph(self, request: web.Request) -> web.Response:
        text = await self._live.svg()
        return web.Response(text=text, content_type="image/svg+xml", charset="utf-8", headers=PICTURE)

    async def _letters(self, request: web.Request) -> web.Response:
        """The oldest dead letters of a queue that the page shows; their bodies only where they may be replayed."""
        broker, exchange, id = await self._queue(request)
        body = bool(self._token_for(request))
        found: list[dict[str, Any]] = []
        choice = Choice(limit=LETTERS)
        async with reading_of(broker, exchange, id + DEAD, choice) as reading:
            async for some in chosen(reading, choice):
                found += [letter(delivery.message, body) for delivery in some]
        return _json({"letters": found, "there": reading.there})

    async def _replay(self, request: web.Request) -> web.Response:
        """One dead letter, by `message`, or all, back to the queue they came from."""
        self._check_page(request)
        broker, exchange, id = await self._queue(request)
        message = request.query.get("message")
        choice = Choice(ids=None if message is None else {message})
        count = 0
        if not await stats(broker, exchange, id):
            raise web.HTTPConflict(text=f"there is no queue {exchange}/{id} any more: its dead letters stay")
        async with reading_of(broker, exchange, id + DEAD, choice, keep=False) as reading:
            async for some in chosen(reading, choice):
                await replayed(broker, exchange, id, reading, some)
                count += len(some)
        return _json({"replayed": count})

    def _token_for(self, request: web.Request) -> str:
        """Empty where replaying is not allowed, and if the browser came by a name that may be an attacker's.

        An attacker can make his own name point here once his page is loaded (DNS rebinding). For the browser all
        this is then a part of his page: he could read the token, and his Origin is our Host. He cannot do that with
        an address, nor with a name that is ours.
        """
        name = re.sub(r":\d+$", "", request.host).strip("[]").lower()
        return self._token if name in self._names or is_address(name) else ""

    def _check_page(self, request: web.Request) -> None:
        """Raise 403 unless this comes from our page.

        Only it knows the token; and a page of another origin may not send this header, nor is its Origin our Host.
        """
        token, given = self._token_for(request), request.headers.get(TOKEN, "")
        if not token or not hmac.compare_digest(given.encode(errors="replace"), token.encode()):
            raise web.HTTPForbidden(text="replaying is not allowed, or the process was restarted: reload the page")
        if request.headers.get("Origin", "").partition("//")[2] != request.host:
            raise web.HTTPForbidden(text="this comes from another page")

    async def _queue(self, request: web.Request) -> tuple[Broker, str, str]:
        """The queue that is meant. Raises 404, 403 where another page asks, and 409 in an outage instead of waiting."""
        if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise web.HTTPForbidden(text="this comes from another page")
        exchange, id = request.match_info["exchange"], request.match_info["id"]
        if f"{exchange}/{id}" not in {row.queue for row in (await self._live.now()).queues}:
            raise web.HTTPNotFound(text=f"there is no queue {exchange}/{id}")
        broker = self._runner.brokers.route(exchange)
        if broker.state != "connected":
            raise web.HTTPConflict(text=f"broker {broker.name} is {broker.state}")
        return broker, exchange, id


@web.middleware
async def answering(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What went wrong at the broker as the one sentence that it is."""
    try:
        return await handler(request)
    except MqasyncError as error:
        raise web.HTTPConflict(text=str(error)) from error


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    """For errors too, as they may quote foreign messages."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def is_address(name: str) -> bool:
    """Whether it is an IP address, which needs no DNS."""
    with suppress(ValueError):
        return ip_address(name) is not None
    return False


def letter(message: Message, body: bool) -> dict[str, Any]:
    """A dead letter for the page."""
    headers = message.headers
    return {
        "id": message.id,
        "age": max(0.0, time.time() - dead_lettered_at(message)),
        "reason": headers.get("dead-reason", ""),
        "error": headers.get("dead-message", "")[:START],
        "body": message.body.decode(errors="replace")[:START] if body else None,
    }


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


class Moment(msgspec.Struct, frozen=True):
    """What the brokers and processes said at one time."""

    queues: list[QueueRow] = []
    reports: list[Report] = []


class Live:
    """`await Live(runner).now()` while the runner works; listening begins with the first and ends with the runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._reports: Reports | None = None
        self._asking = asyncio.Lock()
        self._asked = -FRESH_SECONDS
        self._moment = self._drawn = Moment()
        self._svg = ""

    async def now(self) -> Moment:
        """What is going on, at most FRESH_SECONDS old."""
        async with self._asking:
            if self._runner.started and time.monotonic() - self._asked > FRESH_SECONDS:
                reports = await self._heard()
                queues = await overview(self._runner.brokers, reported(reports), reports)
                self._moment = Moment(queues, reports)
                self._asked = time.monotonic()
        return self._moment

    async def _heard(self) -> list[Report]:
        """This process, which needs no broker for it, and the others as far as the brokers tell of them."""
        if not self._reports:
            self._reports = await self._runner.enter(Reports(self._runner.brokers.opened.values()))
        own = self._runner.health()
        others = [report for report in self._reports.now() if report.process != own.process]
        return sorted([own, *others], key=lambda report: (report.host, report.pid))

    async def svg(self) -> str:
        """All that the processes do, as a picture of now. Raises ConfigurationError without Graphviz."""
        moment = await self.now()
        if moment is not self._drawn:
            self._svg = await asyncio.to_thread(draw, moment, self._runner.settings)
            self._drawn = moment
        return self._svg


def draw(moment: Moment, settings: Settings) -> str:
    """The producers, exchanges and consumers of all processes, with messages per second."""
    flows: dict[tuple[Node, Node], float] = defaultdict(float)  # messages a second

    def node(kind: str, exchange: str, id: str = "") -> Node:
        return Node(kind, exchange, id, settings.broker_of(exchange))

    for report in moment.reports:
        for name, producer in report.producers.items():
            own = node(PRODUCER, producer.exchange, producer.id)
            for to in {producer.exchange, *producer.published}:
                flows[own, node(EXCHANGE, to)] += report.rates.get(output(name, to), 0.0)
        for name, consumer in report.consumers.items():
            own = node(CONSUMER, consumer.exchange, consumer.id)
            flows[node(EXCHANGE, consumer.exchange), own] += report.rates.get(name, 0.0)
            for to in {*consumer.to, *consumer.published}:
                flows[own, node(EXCHANGE, to)] += report.rates.get(output(name, to), 0.0)
    notes = {f"{CONSUMER} {queue.queue}": note(queue) for queue in moment.queues}
    captions = {(source.key, target.key): f"{rate:,.1f}/s" for (source, target), rate in flows.items()}
    return svg(joined(list(flows), settings), "mqasync", notes, captions)


def note(queue: QueueRow) -> str:
    """What a consumer's box says of its queue."""
    if queue.waiting is None:
        return "unknown"
    parts = [(queue.waiting, "waiting"), (queue.delayed, "delayed"), (queue.dead, "dead")]
    return ", ".join(f"{count:,} {what}" for count, what in parts if count) or "empty"
