"""Dedup: remembers for a while which ids a queue has handled; no broker's library, no handler is called here."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from ..handler import Binding
from ..masking import masked
from ..transport import Delivery, Seen
from ..transports import load_seen
from .settlement import Settlement

log = logging.getLogger("mqasync")

MAX_IDS = 1_000_000  # remembered by one consumer in its process, about 200 MB; the oldest are forgotten first
AWAY_SECONDS = 5.0  # a store that did not answer is not asked for so long: each try may take as long as its timeout


class SeenInProcess:
    """Remembers ids for `ttl` seconds, the newest MAX_IDS of them, until the process ends."""

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._ends: OrderedDict[bytes, float] = OrderedDict()  # when each is forgotten, soonest first

    async def known(self, ids: Sequence[str]) -> set[str]:
        """See Seen."""
        now = time.monotonic()
        return {id for id in ids if self._ends.get(digest(id), 0.0) > now}

    async def add(self, ids: Sequence[str]) -> None:
        """See Seen."""
        now = time.monotonic()
        for id in ids:
            self._ends[digest(id)] = now + self._ttl
            self._ends.move_to_end(digest(id))
        while len(self._ends) > MAX_IDS or next(iter(self._ends.values()), now + 1) <= now:
            self._ends.popitem(last=False)

    async def close(self) -> None:
        """Nothing to close."""


def digest(id: str) -> bytes:
    """What is kept of an id: 16 bytes, however long that of a foreign message is."""
    return blake2b(id.encode(), digest_size=16).digest()


class Dedup:
    """Asks `seen` for a channel. While it does not answer every message counts as new: rather twice than never."""

    def __init__(self, name: str, seen: Seen, settlement: Settlement) -> None:
        self.close = seen.close
        self._name, self._seen, self._settlement = name, seen, settlement
        self._ask_again = 0.0  # on the monotonic clock

    async def new(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Those that were not handled before; the others are acknowledged."""
        known = await self._known([delivery.message.id for delivery in deliveries])
        if not known:
            return deliveries
        self._settlement.skip([delivery for delivery in deliveries if delivery.message.id in known])
        return [delivery for delivery in deliveries if delivery.message.id not in known]

    async def _known(self, ids: Sequence[str]) -> set[str]:
        if time.monotonic() >= self._ask_again:
            try:
                return await self._seen.known(ids)
            except Exception as error:
                self._away(error)
        return set()

    async def remember(self, deliveries: Sequence[Delivery]) -> None:
        """They have been handled, and their outputs are confirmed."""
        if time.monotonic() >= self._ask_again:
            try:
                await self._seen.add([delivery.message.id for delivery in deliveries])
            except Exception as error:
                self._away(error)

    def _away(self, error: Exception) -> None:
        self._ask_again = time.monotonic() + AWAY_SECONDS
        what = f"the Redis that remembers ids does not answer: {error}"
        self._settlement.complaints.say(f"{self._name}: {what}; until it does, duplicates are handled again")


def seen_of(consumer: Binding, url: str | None) -> Seen | None:
    """Where `consumer` remembers ids: in the store at `url`, else in this process; None without `dedup`. Logs which.

    Raises ConfigurationError for a wrong URL or a missing client library.
    """
    ttl = consumer.options.dedup
    if ttl is None:
        return None
    what = f"{consumer.exchange}/{consumer.id} remembers ids for {ttl:g} s"
    if url:
        log.info("%s in %s", what, masked(url))
        return load_seen(url, consumer.exchange, consumer.id, ttl)
    elsewhere = "not shared with other processes, and lost in a restart; set `dedup: redis://...` in config.yml"
    log.warning("%s in this process only: %s", what, elsewhere)
    return SeenInProcess(ttl)
