"""Receiver: receives from one queue, and subscribes again when that is lost; no handler is called here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..brokers.backoff import LONGEST_PAUSE, pause
from ..brokers.broker import Broker
from ..brokers.connection import Connection
from ..brokers.inbox import Inbox
from ..brokers.queues import stats
from ..errors import BrokerBusy, BrokerDamaged, BrokerError, BrokerLost, BrokerRefused
from ..transport import Delivery
from .ordering import Lanes
from .settlement import Settlement

log = logging.getLogger("mqasync")

SILENT_SECONDS = 30.0  # without a message, before the broker is asked whether any wait
ANSWER_SECONDS = 5.0  # for the answer to that
RECEIVE_SECONDS = 5.0  # how long one receive may wait; the exact value does not matter


class Receiver:
    """Passes the deliveries of queue (exchange, id) to `arrived`, with at most `prefetch` of them in flight.

    Those that wait in `ready` are dropped when the subscription is lost, and requeued by `close`.
    """

    def __init__(
        self,
        exchange: str,
        id: str,
        prefetch: int,
        broker: Broker,
        settlement: Settlement,
        ready: Lanes,
        arrived: Callable[[list[Delivery]], Awaitable[None]],
    ) -> None:
        self.inbox: Inbox | None = None
        self.consuming = self.again = False  # again: it is not the first subscription
        self._exchange, self._id, self._prefetch = exchange, id, prefetch
        self._name = f"{exchange}/{id}"
        self._broker = broker
        self._settlement = settlement
        self._ready = ready
        self._arrived = arrived
        self._said = False  # logged that the subscription is lost, and not yet that it is back
        self._closed = False
        self._quiet = 0.0  # seconds in which there was room and no message arrived
        self._stands_still = False  # no message arrives although some wait

    async def declare(self) -> None:
        """Make sure that the queue and its dead-letter queue exist. Raises BrokerRefused."""
        await self._settlement.declare_dead()
        await self._broker.call(lambda transport: transport.declare(self._exchange, self._id))

    async def run(self, declared: bool) -> None:
        """Receive until `close`. Raises BrokerDamaged, and BrokerRefused if the first subscription is refused.

        `declared`: its queues have just been declared.
        """
        failures = 0
        complaints = self._settlement.complaints
        while not self._closed:
            received = self._settlement.counts.received
            try:
                await self._subscribe(declared)
            except BrokerDamaged:
                raise
            except BrokerError as error:
                if isinstance(error, BrokerRefused) and self.inbox is None:
                    raise
                declared = False  # the queues may have been deleted
                failures = 1 if self._settlement.counts.received > received else failures + 1
                lost = f"{self._name}: the subscription is lost ({error}); subscribing again"
                self._said = complaints.say(lost) or self._said
                await asyncio.sleep(pause(failures))

    async def _subscribe(self, declared: bool) -> None:
        """The life of one subscription. Raises BrokerLost at its end, or returns when closed."""
        if not declared:
            await self._miss()
            await self.declare()
        connection = await self._broker.connected()
        try:
            inbox = await connection.subscribe(self._exchange, self._id, self._prefetch)
        except BrokerLost as error:
            self._broker.lost(connection, error)
            raise
        self.again = self.inbox is not None
        if self._said:
            log.warning("%s: subscribed again", self._name)
            self._said = False
        self.inbox = inbox
        self.consuming = not self._stands_still
        keeper = asyncio.create_task(inbox.keep())
        try:
            while not self._closed and not await self._is_stalled(connection, inbox):
                try:
                    await self._receive(inbox)
                except BrokerBusy as error:
                    self._settlement.complaints.say(f"{self._name}: {error}; trying again")
                    await asyncio.sleep(LONGEST_PAUSE)
        except BrokerLost:
            self._settlement.lost()
            self._ready.take_all()  # they are no longer ours and will be redelivered
            raise
        finally:
            self.consuming = False
            keeper.cancel()
            await inbox.close()

    async def _miss(self) -> None:
        """Warn if the queue does not exist any more: the broker lost it, or it was deleted."""
        with suppress(BrokerRefused):  # asking may need a permission
            if self.inbox and await stats(self._broker, self._exchange, self._id) is None:
                log.warning("%s: its queue is gone, with all messages in it; creating it again", self._name)

    async def _receive(self, inbox: Inbox) -> None:
        began = time.monotonic()
        deliveries = await inbox.receive(self._prefetch, RECEIVE_SECONDS)
        self._quiet = 0.0 if deliveries or not inbox.room else self._quiet + time.monotonic() - began
        self.consuming = self.consuming or bool(deliveries)
        self._stands_still = self._stands_still and not deliveries
        self._settlement.count(deliveries)
        await self._arrived(deliveries)

    async def _is_stalled(self, connection: Connection, inbox: Inbox) -> bool:
        """True, with a warning, if messages wait and none has arrived for SILENT_SECONDS: subscribe again.

        A broker or proxy may forget a subscription and keep the connection alive. The second time the connection is
        given up too. Where there is a lease, every receive asks the broker, and no subscription can be forgotten.
        """
        if self._quiet < SILENT_SECONDS or inbox.lease is not None:
            return False
        why = f"no message has arrived for {self._quiet:.0f} s, and the broker does not say how many wait"
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await stats(self._broker, self._exchange, self._id)
                waiting = found.waiting - len(inbox.held) if found else 0
                if waiting <= 0:
                    self._quiet, self._stands_still, self.consuming = 0.0, False, True
                    return False
                if found and self._quiet < SILENT_SECONDS * (found.consumers or 1):  # they may be in flight elsewhere
                    return False
                why = f"{waiting:,} messages wait and none has arrived for {self._quiet:.0f} s"
        self._settlement.complaints.say(f"{self._name}: {why}; subscribing again")
        if self._stands_still:
            self._broker.lost(connection, BrokerLost(f"{self._name}: {why}"))
        self._quiet, self._stands_still = 0.0, True
        return True

    async def close(self) -> None:
        """Stop receiving and requeue the messages that no handler has begun."""
        self._closed = True
        if self.inbox:
            await self.inbox.close()
        await self._settlement.release(self._ready.take_all())
