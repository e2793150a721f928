"""Queues that belong to one process: none is left behind by those that were killed."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from mqasync import Message
from mqasync.brokers.broker import Brokers
from mqasync.brokers.temporary import PROBES, TemporaryQueue, sweep_once
from mqasync.config.settings import Settings
from mqasync.transport import Delivery


async def test_a_queue_that_a_killed_process_left_is_deleted_and_one_in_use_is_not(tmp_path: Path) -> None:
    brokers = Brokers(Settings(brokers={"main": f"sqlite:{tmp_path}/test.db"}))
    broker, taken, come = brokers.named("main"), list[bytes](), asyncio.Semaphore(0)

    async def take(deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            taken.append(delivery.message.body)
            come.release()

    try:
        # Given a queue of users, a tap that was left behind and one in use
        for id in ("work", "tap-left"):
            await (await broker.connected()).declare("E", id)
        async with TemporaryQueue(broker, "E", "tap-used", take):
            # When somebody looks, again and again, while messages come
            probes: dict[tuple[str, str], int] = {}
            for n in range(1, PROBES + 2):
                await broker.publish("E", Message(body=b"%d" % n, exchange="E"))
                await come.acquire()
                probes = await sweep_once(broker, probes)
            # Then only what nobody received from is gone
            there = await (await broker.connected()).queues()
            assert there and ("E", "work") in there and ("E", "tap-left") not in there
            await broker.publish("E", Message(body=b"5", exchange="E"))
            await come.acquire()
            assert taken == [b"1", b"2", b"3", b"4", b"5"], "no probe is shown"
    finally:
        await brokers.close()
