"""One consumer of one queue in Redis: receives on a connection of its own, settles on the transport's."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from msgspec import json, structs

from ..errors import BrokerError, BrokerLost
from ..transport import Delivery
from . import redis_leases as leases
from .redis_connection import CLOSE_SECONDS, REPLY_SECONDS, Connection
from .redis_errors import only_lost
from .redis_keeper import Keeper
from .redis_message import from_fields, to_envelope
from .redis_scripts import GROUP, Script, keys_of

WATCH_SECONDS = 1.0  # look so often for what others delayed and for what dead processes held
BUSY_SECONDS = 0.005  # look no more often than that
LONGEST_SECONDS = 60.0  # that large messages may take on a slow line
CLAIMED = 10  # messages that are taken from others in one look

Tag = tuple[str, int]  # an entry and how often it was delivered: it is ours as long as nobody else took it


class RedisSubscription:
    """Waits in Redis for what comes, and looks from time to time for what becomes due."""

    def __init__(
        self, commands: Connection, own: Connection, exchange: str, id: str, name: str, prefetch: int, lease: float
    ) -> None:
        """Made by RedisTransport.subscribe; `commands` is the transport's connection."""
        self.lease: float | None = lease
        self._milliseconds = math.ceil(lease * 1000)
        self._commands, self._own = commands, own
        self._exchange, self._id, self._name, self._prefetch = exchange, id, name, prefetch
        self.keys = keys_of(exchange, id)
        self._keeper = Keeper(commands, self.keys)
        self._held: set[Tag] = set()
        self._given_up: list[Delivery] = []  # settling them failed
        self._room = asyncio.Event()  # something was settled
        self._look_at = 0.0
        self._idle = asyncio.Event()  # nobody receives
        self._idle.set()
        self._closed = self._lost = False

    async def open(self) -> None:
        """Connect. Raises BrokerLost where there is no such queue."""
        await self._own.open()
        self._client = await self._own.call("CLIENT", "ID")
        await self._keeper.start(self._id)

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        deadline = time.monotonic() + timeout
        self._idle.clear()
        try:
            while not self._closed:
                deliveries = await self._take(min(limit, self._prefetch - len(self._held)), deadline)
                if self._closed:
                    await self.release(deliveries)
                elif deliveries or time.monotonic() >= deadline:
                    return deliveries
        finally:
            self._idle.set()
        if self._lost:
            raise BrokerLost("the connection to Redis was closed")
        return []

    async def _take(self, limit: int, deadline: float) -> list[Delivery]:
        """What there is or comes; nothing when it is time to look, and at the deadline."""
        if limit <= 0:
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._room.wait()
            return []
        with only_lost():
            if time.monotonic() >= self._look_at and (deliveries := await self._look(limit)):
                return deliveries
            return await self._wait(limit, deadline)

    async def _look(self, limit: int) -> list[Delivery]:
        """Let what is due be received; take what others held for too long."""
        given_up, self._given_up = self._given_up, []
        await self._run(leases.RELEASE, given_up)
        self._look_at = math.inf
        look = (self._name, min(limit, CLAIMED), self._milliseconds, len(self._held))
        taken, due = await leases.LOOK.run(self._commands, self.keys, *look)
        pause = WATCH_SECONDS if due < 0 else min(max(due / 1000, BUSY_SECONDS), WATCH_SECONDS)
        pause = 0.0 if taken else pause  # there may be more
        self._look_at = min(self._look_at, time.monotonic() + pause)
        return [self._delivery(entry, fields, count) for count, (entry, fields) in taken]

    async def _wait(self, limit: int, deadline: float) -> list[Delivery]:
        """Take what comes before the deadline and before it is time to look."""
        pause = min(deadline, self._look_at) - time.monotonic()
        if self._closed:
            return []
        block: tuple[str | int, ...] = ("BLOCK", math.ceil(pause * 1000)) if pause > 0 else ()
        command = ("XREADGROUP", "GROUP", GROUP, self._name, "COUNT", limit, *block, "STREAMS", self.keys.stream, ">")
        asking = asyncio.create_task(self._own.call(*command, patience=LONGEST_SECONDS))
        try:
            while not (await asyncio.wait((asking,), timeout=max(pause, 0.0) + REPLY_SECONDS))[0]:
                await self._commands.call("PING")  # is it there, and the reply only long?
            reply: Any = await asking
        finally:
            asking.cancel()
        return [self._delivery(entry, fields, 1) for _, entries in reply or () for entry, fields in entries]

    def _delivery(self, entry: bytes, fields: Sequence[bytes], count: int) -> Delivery:
        tag = (entry.decode(), count)
        message, returned, unreadable = from_fields(self._exchange, tag[0], fields)
        self._held.add(tag)
        return Delivery(message, self, tag, returned + count - 1, unreadable)

    async def expect(self, delay: float) -> None:
        """Something becomes due in `delay` seconds: look then, not later."""
        moment = time.monotonic() + delay
        if moment < self._look_at:
            self._look_at = moment
            if not self._idle.is_set():
                await self._interrupt()

    async def _interrupt(self) -> None:
        """End the wait in Redis, which needs a permission of its own; without it, the wait ends at the next look."""
        with suppress(BrokerError):
            await self._commands.call("CLIENT", "UNBLOCK", self._client)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(leases.ACK, deliveries)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        await self._settle(leases.RELEASE, deliveries)

    async def retry(self, delivery: Delivery, delay: float) -> None:
        message = structs.replace(delivery.message, attempt=delivery.message.attempt + 1)
        await self._settle(leases.RETRY, [delivery], max(0, math.ceil(delay * 1000)), to_envelope(message))
        await self.expect(delay)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        with only_lost():
            await self._run(leases.EXTEND, deliveries)

    async def _settle(self, script: Script, deliveries: Sequence[Delivery], *more: int | bytes) -> None:
        try:
            with only_lost():
                await self._run(script, deliveries, *more)
        except BrokerLost:  # they come back by their leases, but not to us, who would not ask for what is ours
            self._given_up += deliveries
            raise
        finally:
            self._held.difference_update(delivery.tag for delivery in deliveries)
            self._room.set()

    async def _run(self, script: Script, deliveries: Sequence[Delivery], *more: int | bytes) -> None:
        if deliveries:
            tags = json.encode([delivery.tag for delivery in deliveries])
            await script.run(self._commands, self.keys, self._name, tags, *more)

    async def close(self) -> None:
        self._closed = True
        self._room.set()
        self._keeper.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while not self._idle.is_set():  # again, if it asked Redis after that had nothing to interrupt
                    await self._interrupt()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await self._idle.wait()
        await self._own.close()

    async def leave(self) -> None:
        """The transport closes: what is unsettled goes back, and who receives is told."""
        self._lost = True
        await self.close()
        with suppress(BrokerError, TimeoutError):  # in an outage it goes back by its lease
            async with asyncio.timeout(CLOSE_SECONDS):
                await leases.LEAVE.run(self._commands, self.keys, self._name)
