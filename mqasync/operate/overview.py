"""Overview: queues on brokers and processes that work on them, a row each; nothing is shown or changed."""

import asyncio
from collections.abc import Awaitable, Collection, Iterable
from typing import Any, TypeVar

import msgspec

from ..brokers.broker import Brokers
from ..brokers.queues import Queue, is_tap, is_users, queues, stats
from ..errors import BrokerDamaged, BrokerError
from ..observe.report import Report
from ..transport import DEAD

T = TypeVar("T")

ANSWER_SECONDS = 5.0  # a broker that needs longer is not waited for


SHOWN_AS = {"rate": "per second", "held": "in flight", "last_error": "last error"}


class QueueRow(msgspec.Struct, frozen=True, rename=SHOWN_AS):
    """One queue, exchange/id: what the broker reports of it, and what all processes together do with it.

    `waiting`, `delayed`, `dead`: messages, None where there is no such queue or the broker does not answer.
    `consumers`: as the broker counts them, else the processes that report. `rate`: handled a second.
    `oldest`: seconds since the oldest message in flight was first published. The counts are since each process's start.
    """

    queue: str
    waiting: int | None
    delayed: int | None
    dead: int | None
    consumers: int
    rate: float
    held: int
    retried: int
    dead_lettered: int
    oldest: float | None
    broker: str
    last_error: str


def process_row(report: Report) -> dict[str, Any]:
    """One process, as people and machines are shown it."""
    return {
        "process": f"{report.host}:{report.pid}",
        "services": ", ".join(report.services),
        "up": report.time - report.started,
        "per second": sum(report.rates.get(name, 0.0) for name in report.consumers),
        "handled": sum(consumer.handled for consumer in report.consumers.values()),
        "published": sum(sum(producer.published.values()) for producer in report.producers.values()),
        "in flight": sum(consumer.held for consumer in report.consumers.values()),
        "reconnects": sum(broker.reconnects for broker in report.brokers.values()),
        "brokers": ", ".join(f"{name}: {broker.state}" for name, broker in report.brokers.items()),
        "failing producers": "; ".join(f"{name}: {error}" for name, error in report.failing.items()),
    }


async def known(brokers: Brokers) -> set[Queue]:
    """Every queue that the open brokers list, or that is in config.yml; no dead-letter queues, no replies."""
    settings = brokers.settings
    found = {(exchange, id) for exchange, own in settings.exchanges.items() for id in own.requires}
    found |= {(exchange, id) for exchange, _, id in (name.partition("/") for name in settings.consumers)}
    for broker in brokers.opened.values():
        told = await _answer(queues(broker))
        found.update(told or ())
    return {(exchange, id) for exchange, id in found if is_users(exchange, id) and not is_tap(id)}


def reported(reports: Iterable[Report]) -> set[Queue]:
    """Every queue that a process reports."""
    return {(consumer.exchange, consumer.id) for report in reports for consumer in report.consumers.values()}


async def overview(brokers: Brokers, names: Collection[Queue], reports: Collection[Report]) -> list[QueueRow]:
    """One row for each of the queues `names`, in their order."""
    return list(await asyncio.gather(*(_row(brokers, *queue, reports) for queue in sorted(names))))


async def _row(brokers: Brokers, exchange: str, id: str, reports: Collection[Report]) -> QueueRow:
    broker, name = brokers.route(exchange), f"{exchange}/{id}"
    found, dead = await asyncio.gather(*(_answer(stats(broker, exchange, own)) for own in (id, id + DEAD)))
    working = [report.consumers[name] for report in reports if name in report.consumers]
    consuming = sum(consumer.consuming for consumer in working)
    return QueueRow(
        queue=name,
        waiting=found.waiting if found else None,
        delayed=found.delayed if found else None,
        dead=dead.total if dead else None,
        consumers=consuming if found is None or found.consumers is None else found.consumers,
        rate=sum(report.rates.get(name, 0.0) for report in reports if name in report.consumers),
        held=sum(consumer.held for consumer in working),
        retried=sum(consumer.retried for consumer in working),
        dead_lettered=sum(consumer.dead_lettered for consumer in working),
        oldest=max((consumer.oldest for consumer in working if consumer.oldest is not None), default=None),
        broker=broker.name,
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
