"""The partitions that one consumer has at the moment, and what it commits; nothing is received or delivered here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiokafka import ConsumerRebalanceListener
from aiokafka import errors as kafka
from aiokafka.structs import TopicPartition

from ..errors import BrokerError
from .kafka_requests import Committed
from .offset_tracker import OffsetTracker

COMMIT_SECONDS = 0.02  # between two commits; what is settled within it goes together
PASSING = (kafka.CommitFailedError, kafka.IllegalStateError)  # what aiokafka cannot repeat by itself
HANDOVER_SECONDS = 2.0  # how long a rebalance may wait for our commit


class Assignment(ConsumerRebalanceListener):  # type: ignore[misc]
    """A tracker for each partition that the group gave us.

    aiokafka takes all partitions away for each rebalance. A tracker survives that if its partition comes
    back with what we committed last: then nobody else had it, and the deliveries in hand are still ours.
    """

    def __init__(
        self,
        consumer: Any,
        committed: Callable[[], Awaitable[Committed]],
        changed: Callable[[], None],
        lose: Callable[[str], None],
    ) -> None:
        self.ours = asyncio.Event()  # not set while the group rebalances
        self.trackers: dict[TopicPartition, OffsetTracker] = {}
        self._consumer, self._committed, self._changed, self._lose = consumer, committed, changed, lose
        self._confirmed: Committed = {}  # by us, in this life of the tracker
        self._something = asyncio.Event()
        self._committing = asyncio.create_task(self._commit_always())

    async def on_partitions_revoked(self, revoked: object) -> None:
        """aiokafka: the group rebalances; tell it first what is settled, so that nobody repeats it."""
        self.ours.clear()
        await self._commit_within(HANDOVER_SECONDS)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """aiokafka: these are ours from now on."""
        try:
            committed = await self._committed()
        except Exception as error:  # aiokafka would only log it
            return self._lose(str(error) if isinstance(error, BrokerError) else repr(error))
        for partition in list(self.trackers):
            if partition not in assigned or committed.get(partition) != self._confirmed.get(partition):
                self.trackers.pop(partition).alive = False
        self._confirmed = {partition: committed[partition] for partition in assigned if partition in committed}
        for partition in assigned:
            if partition not in self.trackers:
                self.trackers[partition] = OffsetTracker(*committed.get(partition, (0, "")))
            self._consumer.seek(partition, self.trackers[partition].position)
        self.ours.set()
        self._changed()

    def settled(self) -> None:
        """Something was settled: commit it soon."""
        self._something.set()

    async def _commit_always(self) -> None:
        while True:
            await self._something.wait()
            await self.ours.wait()
            self._something.clear()
            try:
                await self._commit()
            except PASSING:
                pass  # the group rebalances; afterwards again
            except Exception as error:  # nothing that is settled from now on would be remembered
                return self._lose(f"Kafka takes no commit: {error!r}")
            await asyncio.sleep(COMMIT_SECONDS)

    async def _commit(self) -> None:
        changes = {partition: tracker for partition, tracker in self.trackers.items() if tracker.changed}
        if not changes:
            return
        offsets = {partition: tracker.committable() for partition, tracker in changes.items()}
        try:
            # who is not in the group may commit too, and would make it again if it was deleted
            if self._consumer._coordinator.generation < 0:
                raise kafka.CommitFailedError("not in the group any more")
            await self._consumer.commit(offsets)
        except BaseException:
            for tracker in changes.values():
                tracker.changed = True
            self._something.set()
            raise
        self._confirmed |= offsets

    async def _commit_within(self, seconds: float) -> None:
        with suppress(kafka.KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self._commit()

    async def end(self, commit: bool) -> None:
        """Commit for the last time; what is not settled by now goes to somebody else."""
        self._committing.cancel()
        if commit and self.ours.is_set():
            await self._commit_within(HANDOVER_SECONDS)
        for tracker in self.trackers.values():
            tracker.alive = False
