"""Inbox: the deliveries of one subscription, counted, delayed and settled once each; no connection is made here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, KeysView, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec.structs import replace

from ..errors import BrokerBusy, BrokerError, MqasyncError
from ..message import Message
from ..transport import Delivery, Features, Pushed, Subscription
from ..transports.common.envelope import DUE
from .backoff import pause
from .calls import CALL_SECONDS, Calls, unheard

EARLY_SECONDS = 1.0  # a message that comes so little before its time is handled
LONGEST_DELAY = 400 * 86_400.0  # a later time in that header is not ours

Settle = Callable[[Sequence[Delivery]], Coroutine[Any, Any, None]]
SendBack = Callable[[Sequence[Message], float], Awaitable[None]]
"""Connection.send of messages to the queue of this inbox, with a delay in seconds."""


class Inbox:
    """One subscription: it keeps to the prefetch, holds back early arrivals, and settles each delivery once."""

    def __init__(
        self, calls: Calls, inner: Subscription, features: Features, prefetch: int, send_back: SendBack
    ) -> None:
        self.lease = inner.lease
        self.left = False  # it is closed, and everything is settled
        self._calls, self._inner = calls, inner
        self._prefetch = prefetch
        self._send_back = send_back
        self._held: dict[Delivery, None] = {}  # oldest first
        self._surplus: list[Delivery] = []  # held, and received beyond the limit
        self._receiving: asyncio.Future[list[Delivery]] | None = None
        self._closed = False
        self._changed = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None
        self._cancellable = features.cancellable_receive
        self._postpone = getattr(inner, "postpone", None)  # not every broker can
        self._batch = features.batch
        self._longest = min(features.longest_wait, inner.lease / 3) if inner.lease else features.longest_wait

    @property
    def held(self) -> KeysView[Delivery]:
        """The unsettled deliveries, oldest first."""
        return self._held.keys()

    @property
    def room(self) -> int:
        """How many more may be received before one is settled."""
        return self._prefetch - len(self._held)

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Wait up to `timeout` seconds for the first message, then return those available, at most `limit`.

        At most `prefetch` are unsettled. After close() it immediately returns nothing. Raises NoSuchQueue, BrokerLost.
        """
        deadline = time.monotonic() + timeout
        while not self._closed:
            self._changed.clear()
            left = max(0.0, deadline - time.monotonic())
            room = min(limit, self.room)
            if not self._surplus and room > 0:
                await self._take(room, min(left, self._longest))
            elif not self._surplus:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._changed.wait()
            if not self._closed and (self._surplus or left == 0):
                brought, self._surplus = self._surplus[:limit], self._surplus[limit:]
                return brought
        self._calls.check()
        return []

    async def _take(self, limit: int, timeout: float) -> None:
        """One receive of the transport; it is not cancelled with this call, and the next call goes on with it."""
        if self._receiving is None:
            self._calls.check()
            self._receiving = asyncio.ensure_future(self._inner.receive(limit, timeout))
            self._receiving.add_done_callback(unheard)  # if no call waits for it any more
        try:
            deliveries = await self._calls.result(self._receiving)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                return
            raise
        except MqasyncError:
            self._receiving = None
            raise
        self._receiving = None
        self._held.update(dict.fromkeys(deliveries))
        for delivery in deliveries:
            delivery.subscription = self
        early = {one: self._delay(one) for one in deliveries if DUE in one.message.headers}
        for delivery in deliveries:
            if delivery.returned:
                delivery.message = replace(delivery.message, returned=delivery.returned)
        self._surplus += [one for one in deliveries if not early.get(one)] if early else deliveries
        for delivery, delay in early.items():
            if delay and self._postpone:
                await self._settle([delivery], partial(self._postpone, delay=delay))
            elif delay:
                await self.exchange([delivery], [delivery.message], delay)

    def _delay(self, delivery: Delivery) -> float:
        """How many seconds too early it has come; removes the header that says so."""
        headers = dict(delivery.message.headers)
        due = headers.pop(DUE)
        delivery.message = replace(delivery.message, headers=headers)
        if self._postpone:
            delivery.returned = max(0, delivery.returned - 1)  # being too early does not count
        with suppress(ValueError):
            delay = float(due) - time.time()
            return delay if (0 if self._postpone else EARLY_SECONDS) < delay < LONGEST_DELAY else 0.0
        return 0.0

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge. An acknowledgement may get lost: then the message is redelivered. Raises BrokerLost."""
        await self._settle(deliveries, self._inner.ack)

    async def exchange(self, deliveries: Sequence[Delivery], messages: Sequence[Message], delay: float = 0.0) -> None:
        """Replace deliveries in this queue by `messages`, one for each: publish these, then acknowledge those.

        They can be received in `delay` seconds, or up to a second later. Raises BrokerLost.

        Nothing is published for deliveries that are settled already: that would duplicate the message.
        """
        pairs = zip(deliveries, messages, strict=True)
        if again := [message for delivery, message in pairs if delivery in self._held]:
            await self._repeated(partial(self._send_back, again, delay))
            await self.ack(deliveries)

    async def release(self, deliveries: Iterable[Delivery]) -> None:
        """Requeue immediately; it does not count as an attempt. Raises BrokerLost."""
        await self._settle(deliveries, self._inner.release)

    async def _settle(self, deliveries: Iterable[Delivery], call: Settle) -> None:
        mine = [delivery for delivery in deliveries if delivery in self._held]
        if len(mine) > self._batch:
            await asyncio.gather(*(self._settle_some(call, some) for some in portions(mine, self._batch)))
        elif mine:
            await self._settle_some(call, mine)
        self._calls.check()

    async def _settle_some(self, call: Settle, some: Sequence[Delivery]) -> None:
        try:
            await self._repeated(lambda: self._calls.call(call(some), CALL_SECONDS))
        finally:  # also if the queue is gone: `receive` has to go on, and find that out
            for delivery in some:
                self._held.pop(delivery, None)
            self._changed.set()

    async def _repeated(self, call: Callable[[], Awaitable[None]]) -> None:
        """Repeat `call` while the broker is busy."""
        refusals = 0
        while True:
            try:
                return await call()
            except BrokerBusy:
                refusals += 1
                await asyncio.sleep(pause(refusals))

    async def extend(self, deliveries: Iterable[Delivery]) -> None:
        """Renew the lease from now. Raises BrokerLost."""
        mine = [delivery for delivery in deliveries if delivery in self._held]
        for some in portions(mine, self._batch):
            await self._calls.call(self._inner.extend(some), CALL_SECONDS)

    async def keep(self) -> None:
        """Renew the leases of all unsettled deliveries, long before they end, until cancelled."""
        while self.lease is not None:
            await asyncio.sleep(self.lease / 3)
            with suppress(BrokerError):  # receive will notice
                await self.extend(self.held)

    async def close(self) -> None:
        """Stop receiving immediately; settling stays possible. It can be called twice, and in an outage."""
        if self._leaving is None:
            self._closed = True
            self._changed.set()
            if self._receiving:
                self._calls.interrupt(self._receiving)
                if self._cancellable and self._receiving.cancel():
                    self._receiving = None
            self._leaving = asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        """Requeue what comes too late, and close the transport's subscription when everything is settled."""
        with suppress(BrokerError):
            if self._receiving:
                with suppress(BrokerError):  # also that of a cancelled receive
                    await self._take(0, 0.0)
            await self.release(self._surplus)
            if isinstance(self._inner, Pushed):  # or it fills up while handlers end, with messages for others
                with suppress(BrokerError):
                    await self._calls.call(self._inner.stop(), CALL_SECONDS)
            while self._held:
                self._changed.clear()
                await self._changed.wait()
            await self._calls.call(self._inner.close(), CALL_SECONDS)
        self.left = True

    async def give_up(self) -> None:
        """Close it, and requeue unsettled messages."""
        await self.close()
        assert self._leaving
        with suppress(BrokerError):
            await self.release(self.held)
        await self._leaving


def portions(deliveries: Sequence[Delivery], size: int) -> Iterator[Sequence[Delivery]]:
    """`deliveries`, `size` at a time."""
    for start in range(0, len(deliveries), size):
        yield deliveries[start : start + size]
