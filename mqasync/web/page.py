"""The live page of `run --http`: its files, its data, and, where that is allowed, replaying dead letters; no layout."""

from __future__ import annotations

import hmac
import secrets
import time
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web

from ..codec import not_json
from ..dead import buried_at, revived
from ..letters import Choice, chosen
from ..message import Message
from ..reading import Reading
from ..runner import Runner
from ..transport import DEAD
from .live import Live

LETTERS = 50  # dead letters that are shown
START = 300  # characters of a body or an error
TYPES = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
TOKEN = "X-Mqasync-Token"  # noqa: S105, the name of the header


class Page:
    """Adds its routes to `app`. `replay`: bodies of dead letters are shown, and they can be replayed."""

    def __init__(self, app: web.Application, runner: Runner, live: Live, replay: bool) -> None:
        self._runner = runner
        self._live = live
        self._token = secrets.token_urlsafe() if replay else ""
        app.router.add_get("/", self._file)
        app.router.add_get("/{name:page\\.(?:css|js)}", self._file)
        app.router.add_get("/status.json", self._status)
        app.router.add_get("/graph.svg", self._graph)
        app.router.add_get("/dead/{exchange}/{id}", self._letters)
        app.router.add_post("/dead/{exchange}/{id}/replay", self._replay)

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "page.html")
        text = files(__package__).joinpath("static", name).read_text(encoding="utf-8")
        text = text.replace("{{token}}", self._token)
        return web.Response(text=text, content_type=TYPES[name], charset="utf-8", headers=HEADERS)

    async def _status(self, request: web.Request) -> web.Response:
        picture = await self._live.now()
        return _json({"queues": picture.queues, "processes": picture.processes, "replay": bool(self._token)})

    async def _graph(self, request: web.Request) -> web.Response:
        # a picture: its own style is all that it may use
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        text = (await self._live.now()).svg
        return web.Response(text=text, content_type="image/svg+xml", charset="utf-8", headers=HEADERS | policy)

    async def _letters(self, request: web.Request) -> web.Response:
        """The oldest dead letters of a queue that the page shows; their bodies only where they may be replayed."""
        exchange, id = await self._queue(request)
        found: list[dict[str, Any]] = []
        async with Reading(self._runner.brokers.route(exchange), exchange, id + DEAD, LETTERS) as reading:
            async for some in chosen(reading, Choice(limit=LETTERS)):
                found += [letter(delivery.message, bool(self._token)) for delivery in some]
        return _json(found)

    async def _replay(self, request: web.Request) -> web.Response:
        """One dead letter, by `message`, or all, back to the queue they came from."""
        self._check_origin(request)
        exchange, id = await self._queue(request)
        broker = self._runner.brokers.route(exchange)
        count = 0
        async with Reading(broker, exchange, id + DEAD) as reading:
            async for some in chosen(reading, Choice(message=request.query.get("message", ""))):
                for delivery in some:
                    await broker.send(exchange, id, revived(delivery.message))
                await reading.take(some)
                count += len(some)
        return _json({"replayed": count})

    def _check_origin(self, request: web.Request) -> None:
        """Raise 403 unless it comes from this very page.

        The token is in the page only, and another origin can neither read it nor send the header without being
        allowed to. A name that was made to point here later has no page of ours open, and its Origin is not our Host.
        """
        given = request.headers.get(TOKEN, "")
        origin = request.headers.get("Origin", "").partition("//")[2]
        if not self._token or not hmac.compare_digest(given.encode(), self._token.encode()):
            raise web.HTTPForbidden(text="replaying is not allowed, or this page is of a process that has ended")
        if origin != request.host or request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise web.HTTPForbidden(text="this comes from another page")

    async def _queue(self, request: web.Request) -> tuple[str, str]:
        queue = request.match_info["exchange"], request.match_info["id"]
        known = {(one.exchange, one.id) for one in (await self._live.now()).queues}
        known |= {(channel.exchange, channel.id) for channel in self._runner.channels}
        if queue not in known:
            raise web.HTTPNotFound(text="no such queue")
        return queue


def letter(message: Message, body: bool) -> dict[str, Any]:
    """A dead letter for the page."""
    headers = message.headers
    shown = message.body if not not_json(message.body) else message.body.decode("utf-8", "replace").encode()
    return {
        "id": message.id,
        "age": max(0.0, time.time() - buried_at(message)),
        "reason": headers.get("dead-reason", ""),
        "error": headers.get("dead-message", "")[:START],
        "body": shown.decode("utf-8", "replace")[:START] if body else None,
    }


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", headers=HEADERS)
