"""Redis Streams through redis-py; Redis only, no retrying, decoding or handling.

URL: redis://user:password@host:port/database, or rediss:// for TLS, always verified. After "?":
    lease (seconds until an unsettled delivery comes back by itself, default 30; the same in every process),
    cafile, certfile, keyfile.
Options: none.
Delivery: a stream for each exchange and id; publish is one script, which puts a message into all streams of
    the exchange or into none. A delivery is leased: who holds it longer without extending it loses it, and
    settling it then has no effect. What a killed process held comes back one lease later and is counted.
    One connection sends and settles, and each subscription has one to wait on.
Order: first in, first out with one consumer and no retries; what is released comes last.
Delay: by the clock of Redis; up to a second more where a process waits for what another one has delayed, or
    if the user of the URL must not use CLIENT UNBLOCK.
Dead letters: a queue like any other, "id.dead".
What it cannot do: use a Redis Cluster or ask Sentinels, keep more than fits into memory, use Redis before 7.0.
    A replica that becomes the master lacks what was not copied yet, confirmed or not.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
from collections.abc import Sequence

from ..errors import BrokerLost, ConfigurationError, Unroutable
from ..message import Message, new_id
from ..transport import Features, Options, QueueStats
from . import redis_leases, redis_server
from . import redis_scripts as scripts
from .redis_connection import Connection
from .redis_message import to_arguments
from .redis_subscription import RedisSubscription
from .redis_url import Address


class RedisTransport:
    """One connection to one Redis, and one more for each subscription."""

    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)
    blocked = ""
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        self._address = Address(url)
        for exchange, given in options.items():
            for name in given:
                problem = f"unknown option {name!r}: Redis has no options"
                raise ConfigurationError(problem, "exchanges", exchange, "options", name)
        self._commands = Connection(self._address)
        self._subscriptions: list[RedisSubscription] = []

    async def open(self) -> None:
        await self._commands.open()
        self.warning = await redis_server.check(self._commands)
        for script in (*scripts.ALL, *redis_leases.ALL):
            await script.load(self._commands)

    async def declare(self, exchange: str, id: str, bound: bool = True) -> None:
        keys = (_exchange(exchange), _stream(exchange, id))
        await scripts.DECLARE.run(self._commands, keys, id, "bound" if bound else "unbound")

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        arguments = to_arguments(exchange, messages)
        if not await scripts.PUBLISH.run(self._commands, (_exchange(exchange),), *arguments):
            raise Unroutable(f"no queue is bound to exchange {exchange!r}")

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        stream = _stream(exchange, id)
        keys = (_exchange(exchange), stream, f"{stream}:delayed", f"{stream}:due")
        milliseconds = max(0, math.ceil(delay * 1000))
        if not await scripts.SEND.run(self._commands, keys, id, milliseconds, *to_arguments(exchange, messages)):
            raise _no_queue(exchange, id)
        if milliseconds:
            for subscription in self._subscriptions:
                if subscription.stream == stream:
                    await subscription.expect(delay)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> RedisSubscription:
        subscription = RedisSubscription(
            self._commands,
            Connection(self._address),
            exchange,
            _stream(exchange, id),
            f"{platform.node()}-{os.getpid()}-{new_id()}",
            prefetch,
            self._address.lease,
        )
        self._subscriptions.append(subscription)
        await subscription.open()
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        stream = _stream(exchange, id)
        found = int(await scripts.DEPTH.run(self._commands, (_exchange(exchange), stream, f"{stream}:delayed"), id))
        return QueueStats(found) if found >= 0 else None

    async def close(self) -> None:
        await asyncio.gather(*(subscription.leave() for subscription in self._subscriptions))
        await self._commands.close()


def _exchange(exchange: str) -> str:
    return f"mqasync:{{{exchange}}}"


def _stream(exchange: str, id: str) -> str:
    return f"mqasync:{{{exchange}}}:{id}"


def _no_queue(exchange: str, id: str) -> BrokerLost:
    return BrokerLost(f"Redis has no queue of {id!r} at exchange {exchange!r}")
