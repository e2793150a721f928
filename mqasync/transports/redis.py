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
What it cannot do: use a Redis Cluster or ask Sentinels, keep more than fits into memory, use Redis before 7.0,
    tell how many consume a queue before 7.2.
    A replica that becomes the master lacks what was not copied yet, confirmed or not. Of a queue that has expired,
    delayed messages stay in memory until its exchange is published to or declared again.
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
from .redis_scripts import PREFIX, exchange_key, keys_of
from .redis_subscription import WATCH_SECONDS, RedisSubscription
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

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        milliseconds = math.ceil((expires or 0) * 1000)
        state = "bound" if bound else "unbound"
        await scripts.DECLARE.run(self._commands, keys_of(exchange, id), id, state, milliseconds)

    async def delete(self, exchange: str, id: str) -> None:
        await scripts.DELETE.run(self._commands, keys_of(exchange, id), id)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        arguments = to_arguments(exchange, messages)
        if not await scripts.PUBLISH.run(self._commands, (exchange_key(exchange),), *arguments):
            raise Unroutable(f"no queue is bound to exchange {exchange!r}")

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        keys = keys_of(exchange, id)
        milliseconds = max(0, math.ceil(delay * 1000))
        if not await scripts.SEND.run(self._commands, keys, id, milliseconds, *to_arguments(exchange, messages)):
            raise _no_queue(exchange, id)
        if milliseconds:
            for subscription in self._subscriptions:
                if subscription.keys == keys:
                    await subscription.expect(delay)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> RedisSubscription:
        subscription = RedisSubscription(
            self._commands,
            Connection(self._address),
            exchange,
            id,
            f"{platform.node()}-{os.getpid()}-{new_id()}",
            prefetch,
            self._address.lease,
        )
        self._subscriptions.append(subscription)
        await subscription.open()
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count what is not settled. A consumer that has room asks every second, one that has none extends leases."""
        silence = math.ceil((self._address.lease + 2 * WATCH_SECONDS) * 1000)
        found = await scripts.STATS.run(self._commands, keys_of(exchange, id), id, silence)
        return QueueStats(*found) if found else None

    async def queues(self) -> list[tuple[str, str]] | None:
        """Look through all keys for those of exchanges; queues that expire are left out."""
        found: list[tuple[str, str]] = []
        for key in sorted(await self._exchanges()):
            values: list[bytes] = await self._commands.call("HGETALL", key)
            states = zip(values[::2], values[1::2], strict=True)
            exchange = key.decode().removeprefix(PREFIX).removesuffix("}")
            found += [(exchange, id.decode()) for id, state in states if state in (b"bound", b"unbound")]
        return found

    async def _exchanges(self) -> set[bytes]:
        """The keys of all exchanges; Redis may show one twice."""
        scan = ("MATCH", f"{PREFIX}*}}", "COUNT", 1000, "TYPE", "hash")
        cursor, found = await self._commands.call("SCAN", 0, *scan)
        keys = set(found)
        while cursor != b"0":
            cursor, found = await self._commands.call("SCAN", cursor, *scan)
            keys.update(found)
        return keys

    async def close(self) -> None:
        await asyncio.gather(*(subscription.leave() for subscription in self._subscriptions))
        await self._commands.close()


def _no_queue(exchange: str, id: str) -> BrokerLost:
    return BrokerLost(f"Redis has no queue of {id!r} at exchange {exchange!r}")
