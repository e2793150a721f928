"""Keeps a queue in Redis alive for as long as somebody is subscribed to it; nothing is received or settled here."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ..errors import BrokerBusy, BrokerError, BrokerLost
from .redis_connection import Connection
from .redis_scripts import KEEP, TIDY, Keys

TIDY_SECONDS = 60.0  # who holds nothing and has asked for nothing for so long is forgotten, and known again if it asks


class Keeper:
    """For one subscription, from its beginning to its end, whether it receives or is busy."""

    def __init__(self, commands: Connection, keys: Keys) -> None:
        """`commands` is the transport's connection."""
        self._commands, self._keys = commands, keys
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, id: str) -> None:
        """Forget consumers that have died, and keep the queue. Raises BrokerLost where there is none."""
        expires = await TIDY.run(self._commands, self._keys, id, round(TIDY_SECONDS * 1000))
        if expires < 0:
            raise BrokerLost(f"there is no queue {self._keys.stream}")
        if expires:
            self._keeping = asyncio.create_task(self._keep(expires))

    async def _keep(self, milliseconds: int) -> None:
        with suppress(BrokerError):
            while True:
                with suppress(BrokerBusy):
                    await KEEP.run(self._commands, self._keys, milliseconds)
                await asyncio.sleep(milliseconds / 3000)

    def stop(self) -> None:
        """From now on it may expire. Safe twice."""
        if self._keeping:
            self._keeping.cancel()
