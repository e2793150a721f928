"""Streams and consumers of JetStream for exchanges and queues: made, found, counted; no message of ours passes here.

A stream for each exchange, which keeps a message until every queue that it is for has acknowledged it. It takes
the subject of the exchange, which every bound queue gets, and a subject for each queue, which that one alone gets.
A queue is a durable pull consumer of the stream.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, ConfigurationError, Unroutable
from ..transport import DEAD, Options
from .nats_connection import Connection
from .nats_errors import NO_RESPONDERS, answer

API = "$JS.API"
PREFIX = "mqasync-"
NANOSECONDS = 1_000_000_000
BOUND_SECONDS = 1.0  # so long we believe that an exchange has a bound queue
LEASE_SECONDS = 30.0
COMPRESSIONS = ("none", "s2")
NUMBERS = ("num_replicas", "max_age", "max_bytes", "max_msgs")


def token(name: str) -> str:
    """An exchange or id as part of a subject, or as the name of a stream or consumer: those have no dots."""
    return name.replace(".", "~")


def stream_name(exchange: str) -> str:
    """The stream of an exchange."""
    return f"{PREFIX}{token(exchange)}"


def subject(exchange: str, id: str = "") -> str:
    """What all bound queues of `exchange` get, or with an `id` that queue alone."""
    return f"mqasync.{token(exchange)}.{token(id)}" if id else f"mqasync.{token(exchange)}"


def check_options(options: Options) -> None:
    """Raise ConfigurationError for what is not a setting of a stream that can be chosen."""
    for exchange, given in options.items():
        for key, value in given.items():
            where = ("exchanges", exchange, "options", key)
            if key in NUMBERS:
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise ConfigurationError(f"{key} is {value!r}; it takes a whole number from 1 on", *where)
            elif key != "compression":
                known = ", ".join((*NUMBERS, "compression"))
                raise ConfigurationError(f"{key!r} is not a setting of a NATS stream; there are: {known}", *where)
            elif value not in COMPRESSIONS:
                raise ConfigurationError(f"compression is {value!r}; it takes {' or '.join(COMPRESSIONS)}", *where)


class Topology:
    """What the transport knows of the server's streams and consumers."""

    def __init__(self, connection: Connection, options: Options, lease: float | None) -> None:
        self._connection = connection
        self._options = options
        self._lease = lease
        self._streams: set[str] = set()  # exchanges whose stream is as it has to be
        self._bound: dict[str, float] = {}  # exchange: until when we believe that it has a bound queue

    async def ask(self, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """A request to JetStream's interface; None for a stream or consumer that does not exist."""
        (reply,) = await self._connection.ask([(f"{API}.{what}", msgspec.json.encode(body or {}), None)])
        if (reply.headers or {}).get("Status") == NO_RESPONDERS:
            raise BrokerBusy("JetStream does not answer: it is not enabled (nats-server -js), or has no leader")
        return answer(reply.data)

    async def declare(self, exchange: str, id: str, bound: bool, expires: float | None) -> None:
        """Make stream and consumer, where they do not exist."""
        while True:
            if exchange not in self._streams:
                await self._stream(exchange)
                self._streams.add(exchange)
            found = await self.find(exchange, id)
            config = self._consumer(exchange, id, bound, found["config"] if found else {})
            config.pop("inactive_threshold", None)
            if expires is not None:
                config["inactive_threshold"] = int(expires * NANOSECONDS)
            if found and config == found["config"]:
                return
            made = {"stream_name": stream_name(exchange), "config": config}
            if await self.ask(f"CONSUMER.CREATE.{stream_name(exchange)}.{token(id)}", made):
                return
            self._streams.discard(exchange)  # somebody has deleted the stream

    def _consumer(self, exchange: str, id: str, bound: bool, found: Mapping[str, Any]) -> dict[str, Any]:
        """How the consumer has to be, given how it is; once bound it stays bound."""
        if not found:
            lease = self._lease or LEASE_SECONDS
            return {
                "name": token(id),
                "durable_name": token(id),
                "deliver_policy": "new",
                "ack_policy": "explicit",
                "ack_wait": int(lease * NANOSECONDS),
                "max_deliver": -1,
                "max_ack_pending": -1,  # what waits for its time counts there
                **_filter(exchange, id, bound),
            }
        config = dict(found)
        if self._lease:
            config["ack_wait"] = int(self._lease * NANOSECONDS)
        if bound and not _is_bound(exchange, id, found):
            config.pop("filter_subject", None)
            config |= _filter(exchange, id, bound)
        return config

    async def _stream(self, exchange: str) -> None:
        """Make the stream, or make sure that it is one of ours."""
        name, options = stream_name(exchange), self._options.get(exchange, {})
        wanted = {key: value * NANOSECONDS if key == "max_age" else value for key, value in options.items()}
        found = await self.ask(f"STREAM.INFO.{name}")
        if not found:
            config = {
                "name": name,
                "subjects": [subject(exchange), subject(exchange, "*")],
                "retention": "interest",
                "storage": "file",
                "discard": "new",  # a full stream takes no more, and drops nothing
                "num_replicas": 1,
                **wanted,
            }
            try:
                await self.ask(f"STREAM.CREATE.{name}", config)
                return
            except BrokerRefused:
                found = await self.ask(f"STREAM.INFO.{name}")  # somebody else was faster, with other options
                if not found:
                    raise
        for key, value in {"retention": "interest", **wanted}.items():
            if found["config"].get(key) != value:
                problem = f"the stream {name} is there with {key} {found['config'].get(key)!r} instead of {value!r}"
                raise BrokerRefused(f"{problem}; change it with `nats stream edit`, or delete it")

    async def check_bound(self, exchange: str) -> None:
        """Raise Unroutable when no queue is bound: JetStream itself would confirm the message and drop it."""
        if self._bound.get(exchange, 0.0) > time.monotonic():
            return
        now = time.monotonic()
        for id in await self._ids(exchange):
            found = None if id.endswith(DEAD) else await self.find(exchange, id)
            if found and _is_bound(exchange, id, found["config"]):
                self._bound[exchange] = now + BOUND_SECONDS
                return
        raise Unroutable(f"no queue is bound to exchange {exchange!r}")

    async def find(self, exchange: str, id: str) -> dict[str, Any] | None:
        """What JetStream tells about the consumer; None where there is none."""
        return await self.ask(f"CONSUMER.INFO.{stream_name(exchange)}.{token(id)}")

    async def info(self, exchange: str, id: str) -> dict[str, Any]:
        """What JetStream tells about the consumer. Raises BrokerLost where there is none: to be declared again."""
        found = await self.find(exchange, id)
        if not found:
            raise BrokerLost(f"there is no queue of {id!r} at exchange {exchange!r}")
        return found

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the consumer; JetStream then drops what is for no other."""
        await self.ask(f"CONSUMER.DELETE.{stream_name(exchange)}.{token(id)}")
        self._bound.pop(exchange, None)

    async def queues(self) -> list[tuple[str, str]]:
        """Every consumer of every stream of ours."""
        streams = await self._names("STREAM.NAMES", "streams")
        exchanges = [_name(stream.removeprefix(PREFIX)) for stream in streams if stream.startswith(PREFIX)]
        return [(exchange, id) for exchange in exchanges for id in await self._ids(exchange)]

    async def _ids(self, exchange: str) -> list[str]:
        names = await self._names(f"CONSUMER.NAMES.{stream_name(exchange)}", "consumers")
        return [_name(consumer) for consumer in names]

    async def _names(self, what: str, key: str) -> list[str]:
        """All of them, which JetStream tells in portions."""
        names: list[str] = []
        while True:
            found = await self.ask(what, {"offset": len(names)}) or {}
            names += found.get(key) or ()
            if not found.get(key) or len(names) >= found["total"]:
                return names


def _name(token: str) -> str:
    return token.replace("~", ".")


def _is_bound(exchange: str, id: str, config: Mapping[str, Any]) -> bool:
    """True unless the consumer gets only what is for it alone."""
    return bool(config.get("filter_subject") != subject(exchange, id))


def _filter(exchange: str, id: str, bound: bool) -> dict[str, Any]:
    """What of the stream is for this consumer."""
    if bound:
        return {"filter_subjects": [subject(exchange), subject(exchange, id)]}
    return {"filter_subject": subject(exchange, id)}
