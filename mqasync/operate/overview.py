"""Overview: the queues on the brokers and who works on them, as data; it shows nothing and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterable
from typing import TypeVar

import msgspec

from ..brokers.broker import Brokers
from ..brokers.queues import Queue, is_tap, is_users, queues, stats
from ..errors import BrokerDamaged, BrokerError
from ..observe.report import Report
from ..transport import DEAD

T = TypeVar("T")

ANSWER_SECONDS = 5.0  # a broker that needs longer is not waited for
SUMS = ("held", "handled", "failed", "retried", "buried")  # over all processes


class QueueOverview(msgspec.Struct, frozen=True):
    """One queue: what the broker tells of it, and what all processes together do with it.

    `waiting`, `delayed`, `dead`: messages, None where there is no such queue or the broker does not answer.
    `consumers`: as the broker counts them, else the processes that report. `rate`: handled a second.
    `oldest`: seconds since the oldest message in hand was first published. The counts are since each process's start.
    """

    exchange: str
    id: str
    broker: str
    waiting: int | None
    delayed: int | None
    dead: int | None
    consumers: int
    rate: float
    held: int
    handled: int
    failed: int
    retried: int
    buried: int
    oldest: float | None
    last_error: str


async def queues_of(brokers: Brokers, names: Iterable[str]) -> list[Queue]:
    """Every queue on these brokers as far as they tell, and what config.yml names; without dead letters and replies."""
    settings = brokers.settings
    found = {(exchange, id) for exchange, own in settings.exchanges.items() for id in own.requires}
    found |= {(exchange, id) for exchange, _, id in (name.partition("/") for name in settings.consumers)}
    for name in names:
        told = await _answer(queues(brokers.named(name)))
        found.update(told or ())
    return sorted((exchange, id) for exchange, id in found if is_users(exchange, id) and not is_tap(id))


async def overview(brokers: Brokers, names: Collection[Queue], reports: Collection[Report]) -> list[QueueOverview]:
    """One entry for each of the queues `names` and for each that a process reports, by name."""
    reported = {(c.exchange, c.id) for report in reports for c in report.health.consumers.values()}
    return list(await asyncio.gather(*(_queue(brokers, queue, reports) for queue in sorted({*names, *reported}))))


async def _queue(brokers: Brokers, queue: Queue, reports: Collection[Report]) -> QueueOverview:
    exchange, id = queue
    name = f"{exchange}/{id}"
    there = [stats(brokers.route(exchange), exchange, own) for own in (id, id + DEAD)]
    found, dead = await asyncio.gather(*map(_answer, there))
    working = [report.health.consumers[name] for report in reports if name in report.health.consumers]
    consuming = sum(consumer.consuming for consumer in working)
    return QueueOverview(
        exchange=exchange,
        id=id,
        broker=brokers.route(exchange).name,
        waiting=found.waiting if found else None,
        delayed=found.delayed if found else None,
        dead=dead.total if dead else None,
        consumers=consuming if found is None or found.consumers is None else found.consumers,
        rate=sum(report.rates.get(name, 0.0) for report in reports if name in report.health.consumers),
        **{name: sum(getattr(consumer, name) for consumer in working) for name in SUMS},
        oldest=max((consumer.oldest for consumer in working if consumer.oldest is not None), default=None),
        last_error=next((consumer.last_error for consumer in working if consumer.last_error), ""),
    )


async def _answer(operation: Awaitable[T]) -> T | None:
    """None where the broker gives none. Raises BrokerDamaged."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await operation
    except BrokerDamaged:
        raise
    except (BrokerError, TimeoutError):
        return None
