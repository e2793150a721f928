"""Asks a broker about its queues, and knows which are the user's own; nothing is declared or received."""

from __future__ import annotations

from operator import methodcaller

from ..transport import DEAD, QueueStats
from .broker import Broker
from .temporary import OURS, TAP

Queue = tuple[str, str]
"""(exchange, id)."""


async def stats(broker: Broker, exchange: str, id: str) -> QueueStats | None:
    """Connection.stats, waiting while the broker is away."""
    found: QueueStats | None = await broker.call(methodcaller("stats", exchange, id))
    return found


async def queues(broker: Broker) -> list[Queue] | None:
    """Connection.queues, waiting while the broker is away."""
    found: list[Queue] | None = await broker.call(methodcaller("queues"))
    return found


def is_users(exchange: str, id: str) -> bool:
    """Whether a queue is one that a user named: neither a dead-letter queue nor mqasync's own."""
    return not id.endswith(DEAD) and not exchange.startswith(OURS)


def is_tap(id: str) -> bool:
    """Whether it is the queue of `mqasync tap`, where a person only watches."""
    return id.startswith(TAP)
