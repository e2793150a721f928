"""Asking ActiveMQ about its queues: the statistics plugin, looking into a queue, emptying it; none is named here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import stompman

from ..errors import BrokerLost
from .activemq_connection import StompConnection, frame
from .activemq_errors import answer
from .activemq_frames import Frame

ABOUT = "ActiveMQ.Statistics."
QUIET_SECONDS = 0.5  # a queue from which nothing has come for so long is empty
END = f"{ABOUT}Destination.List.End.With.Null"  # lets an empty answer follow the last one
OF_BROKER = f"/topic/{ABOUT}Broker"  # a topic: without the plugin it is only dropped
ANSWERS = "/temp-queue/mqasync"


class Figures(NamedTuple):
    """Of one queue or topic."""

    size: int  # messages; of a topic it says nothing
    consumers: int


class Statistics:
    """What the plugin tells about the broker and its queues, where activemq.xml has it."""

    def __init__(self, connection: StompConnection) -> None:
        self._connection = connection
        self._asked: dict[str, tuple[list[dict[str, Any]], asyncio.Future[Frame]]] = {}

    async def open(self) -> None:
        """Make it possible to ask."""
        await self._connection.subscribe(ANSWERS, self._arrived, transformation="jms-map-json")

    async def broker(self) -> dict[str, Any]:
        """What is told about the broker: nothing where there is no plugin or we may not ask it.

        An answer comes before a message that we then send ourselves to where answers come.
        """
        answers = await self._ask(OF_BROKER, ANSWERS)
        return answers[0] if answers else {}

    async def about(self, *destinations: str) -> dict[str, Figures]:
        """Those of the destinations, such as /queue/A.*, that are there, by their names, such as /queue/A.b."""
        questions = [_question(destination) for destination in destinations]
        answers = await self._ask(*questions[:-1], questions[-1] + END)
        return {
            "/" + one["destinationName"].replace("://", "/", 1): Figures(int(one["size"]), int(one["consumerCount"]))
            for one in answers
        }

    async def _ask(self, *destinations: str) -> list[dict[str, Any]]:
        number = self._connection.number()
        headers = {"reply-to": ANSWERS, "correlation-id": number}
        asking = [frame(stompman.SendFrame, {"destination": one, **headers}) for one in destinations]
        answers: list[dict[str, Any]] = []
        with self._connection.awaited(number) as done:
            self._asked[number] = answers, done
            try:
                await self._connection.request(*asking)
                await answer(done)
            finally:
                del self._asked[number]
        return answers

    def _arrived(self, told: Frame) -> None:
        answers, done = self._asked.get(told.headers.get("correlation-id", ""), ([], None))
        entries = _entries(told.body)
        if entries:
            answers.append(entries)
        elif done and not done.done():
            done.set_result(told)


def _question(destination: str) -> str:
    _, kind, name = destination.split("/", 2)
    return f"/{kind}/{ABOUT}Destination{name}"


def _entries(body: bytes) -> dict[str, Any]:
    """The entries of a map message that ActiveMQ made JSON; none of what is not such."""
    try:
        told = msgspec.json.decode(body or b"{}")
        entries = [list(_flat(entry)) for entry in told["map"]["entry"]]
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError):
        return {}
    return {pair[0]: pair[1] for pair in entries if len(pair) == 2}


def _flat(entry: dict[str, Any]) -> list[Any]:
    """{"string": "size", "long": 3} and {"string": ["name", "x"]} alike: name and value."""
    flat: list[Any] = []
    for value in entry.values():
        flat += value if isinstance(value, list) else [value]
    return flat


async def count(connection: StompConnection, queue: str, counts: Callable[[Frame], bool], **headers: str) -> int:
    """How many messages of a queue `counts`, by looking at the first (ActiveMQ shows 400 unless told otherwise)."""
    seen = 0
    with connection.awaited(connection.number()) as end:

        def arrived(shown: Frame) -> None:
            nonlocal seen
            if shown.headers.get("browser") != "end":
                seen += counts(shown)
            elif not end.done():
                end.set_result(shown)

        id = await connection.subscribe(queue, arrived, browser="true", **headers)
        try:
            await answer(end)
        finally:
            with suppress(BrokerLost):
                connection.unsubscribe(id)
    return seen


async def drain(connection: StompConnection, destination: str) -> None:
    """Take out all messages that nobody holds."""
    came = asyncio.Event()
    id = await connection.subscribe(destination, lambda _: came.set())
    with suppress(TimeoutError):
        while True:
            came.clear()
            async with asyncio.timeout(QUIET_SECONDS):
                await came.wait()
    connection.unsubscribe(id)
