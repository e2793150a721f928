"""Overview: the queues on the brokers and who works on them, as data; it shows nothing and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress

import msgspec

from .broker import Brokers
from .errors import BrokerError
from .report import Report
from .temporary import TAP
from .transport import DEAD, QueueStats, Transport

ANSWER_SECONDS = 5.0  # a broker that needs longer is not waited for

OURS = "mqasync."  # so begin the exchanges of replies and reports

Queue = tuple[str, str]


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
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                found.update(await brokers.named(name).call(_queues))
    found = {(exchange, id) for exchange, id in found if not exchange.startswith(OURS) and not id.startswith(TAP)}
    return sorted((exchange, id) for exchange, id in found if not id.endswith(DEAD))


async def _queues(transport: Transport) -> list[Queue]:
    return await transport.queues() or []


async def overview(brokers: Brokers, queues: Collection[Queue], reports: Collection[Report]) -> list[QueueOverview]:
    """One entry for each of `queues` and for each that a process reports, by name."""
    reported = {(c.exchange, c.id) for report in reports for c in report.health.consumers.values()}
    return list(await asyncio.gather(*(_queue(brokers, queue, reports) for queue in sorted({*queues, *reported}))))


async def _queue(brokers: Brokers, queue: Queue, reports: Collection[Report]) -> QueueOverview:
    exchange, id = queue
    name = f"{exchange}/{id}"
    stats, dead = await asyncio.gather(_stats(brokers, exchange, id), _stats(brokers, exchange, id + DEAD))
    working = [report.health.consumers[name] for report in reports if name in report.health.consumers]
    consuming = sum(consumer.consuming for consumer in working)
    return QueueOverview(
        exchange=exchange,
        id=id,
        broker=brokers.route(exchange).name,
        waiting=stats.waiting if stats else None,
        delayed=stats.delayed if stats else None,
        dead=dead.total if dead else None,
        consumers=consuming if stats is None or stats.consumers is None else stats.consumers,
        rate=sum(report.rates.get(name, 0.0) for report in reports if name in report.health.consumers),
        held=sum(consumer.held for consumer in working),
        handled=sum(consumer.handled for consumer in working),
        failed=sum(consumer.failed for consumer in working),
        retried=sum(consumer.retried for consumer in working),
        buried=sum(consumer.buried for consumer in working),
        oldest=max((consumer.oldest for consumer in working if consumer.oldest is not None), default=None),
        last_error=next((consumer.last_error for consumer in working if consumer.last_error), ""),
    )


async def _stats(brokers: Brokers, exchange: str, id: str) -> QueueStats | None:
    with suppress(BrokerError, TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            return await brokers.route(exchange).call(lambda transport: transport.stats(exchange, id))
    return None
