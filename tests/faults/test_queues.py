"""One queue or exchange of RabbitMQ deleted, changed or misused: its messages are safe, the others do not notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import aio_pika
from aiormq.exceptions import ChannelInvalidStateError

from ..brokers import RabbitMQ
from .conftest import Record
from .load import MESSAGES, Load, loads


def administer(server: RabbitMQ, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
    """Do something on a channel of one's own."""

    async def main() -> None:
        async with await aio_pika.connect(server.url) as connection:
            await work(await connection.channel())

    asyncio.run(main())


def pause(load: Load, when: str = "") -> None:
    """Nothing is on its way: what an administrator deletes then is empty."""
    load.hold.clear()
    load.until(lambda: not load.ledger.lost and not load.held, f"everything confirmed is settled {when}")


DELETED: dict[str, Callable[[Any, Load], Coroutine[Any, Any, Any]]] = {
    "retry queue": lambda channel, load: channel.queue_delete(f"{load.exchange}.step.retry.1"),
    "dead letter queue": lambda channel, load: channel.queue_delete(f"{load.exchange}.step.dead"),
    "queue": lambda channel, load: channel.queue_delete(f"{load.exchange}.step"),
    "exchange": lambda channel, load: channel.exchange_delete(load.exchange),
    "output's exchange": lambda channel, load: channel.exchange_delete(load.out),
    "queue of a later step": lambda channel, load: channel.queue_delete(f"{load.out}.sink"),
}


def test_what_an_administrator_deletes_is_made_anew_and_consumed_again(server: RabbitMQ, record: Record) -> None:
    with loads(server.url, MESSAGES) as running:
        for number, (what, delete) in enumerate(DELETED.items(), start=1):
            for load in running:
                load.until_confirmed(0.12 * number)
                pause(load, f"before the {what} is deleted")
                if what.startswith("dead letter"):
                    load.deleted_dead = len(load.ledger.dead_lettered)
                administer(server, lambda channel, load=load, delete=delete: delete(channel, load))  # type: ignore[misc]
                load.hold.set()
        back = time.monotonic()
        for load in running:
            load.finish()
    record("RabbitMQ", f"{', '.join(DELETED)} deleted, one after another", running, back)


def test_a_queue_with_other_arguments_is_waited_for_and_the_other_queues_work(server: RabbitMQ, record: Record) -> None:
    with loads(server.url, MESSAGES) as (changed, other):
        changed.until_confirmed(0.2)
        pause(changed)

        async def change(channel: Any) -> None:
            await channel.queue_delete(f"{changed.exchange}.step")
            await channel.declare_queue(f"{changed.exchange}.step", durable=True)

        async def change_back(channel: Any) -> None:
            await channel.queue_delete(f"{changed.exchange}.step")

        # When somebody makes a queue with arguments that are not ours
        administer(server, change)
        changed.until(lambda: not changed.channels[0].consuming, "it is not consumed")
        before = len(other.ledger.processed)
        other.until(lambda: len(other.ledger.processed) > before or not other.ledger.lost, "the other one works")
        # When it is put right, then it is consumed again by itself
        administer(server, change_back)
        back = time.monotonic()
        changed.until(lambda: changed.channels[0].consuming, "it is consumed again")
        changed.hold.set()
        for load in (changed, other):
            load.finish()
    record("RabbitMQ", "queue made anew with other arguments, then put right", [changed, other], back)


def test_a_double_acknowledgement_costs_one_channel_and_no_message(server: RabbitMQ, record: Record) -> None:
    with loads(server.url, MESSAGES) as running:
        for part in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
            for load in running:
                load.until_confirmed(part)
                load.call(acknowledge_nothing, load)
                back = time.monotonic()
        for load in running:
            load.finish()
            # an acknowledgement that was on its way may meet the channel closed, which costs the connection (504)
            assert load.brokers.route(load.exchange).reconnects <= 1
    record("RabbitMQ", "acknowledged twice, 6 times", running, back)


async def acknowledge_nothing(load: Load) -> None:
    """RabbitMQ closes a channel on which a delivery is acknowledged that it does not know."""
    subscription: Any = load.channels[0]._receiver.inbox
    with suppress(ChannelInvalidStateError):  # it is closed already
        await subscription._inner._channel.basic_ack(10**9, wait=False)


def test_a_handler_that_outlasts_the_consumer_timeout_loses_nothing(server: RabbitMQ, record: Record) -> None:
    """A broker that gives up a delivery closes the channel: what its handlers acknowledge later is swallowed."""
    server.set(consumer_timeout=1000, channel_tick_interval=300)
    try:
        with loads(server.url, MESSAGES // 2, slow=3.0) as running:
            for load in running:
                load.finish()
        assert sum(load.ledger.slowed for load in running) >= 4, "handlers were slow, and their messages came again"
    finally:
        server.set(consumer_timeout=1_800_000, channel_tick_interval=60_000)
    record("RabbitMQ", "handlers longer than consumer_timeout", running, None)
