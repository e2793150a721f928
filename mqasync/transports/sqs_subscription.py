"""One consumer of one SQS queue: what it asks for, what it holds, what is still its own; no request is made up here."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from msgspec.structs import replace

from ..errors import BrokerError, BrokerLost
from ..message import Message
from ..transport import Delivery
from .sqs_errors import settling_errors
from .sqs_message import BATCH
from .sqs_queue import Queue, Receipt

MAX_REQUESTS = 8  # that one receive has under way
ROUNDING = 0.6  # SQS waits whole seconds: what is left from 0.4 s on is rounded up, less is slept here
FULL_SECONDS = 0.05  # look so often whether something was settled

T = TypeVar("T")
SendAgain = Callable[[Message, float], Awaitable[None]]


class SQSSubscription:
    """One queue's deliveries; a Receipt is their tag."""

    def __init__(self, queue: Queue, wait: int, prefetch: int, send_again: SendAgain) -> None:
        """Made by SQSTransport.subscribe; `wait` is for one request, `send_again` sends to this queue with a delay."""
        self.lease: float | None = float(queue.lease)
        self._queue, self._lease = queue, queue.lease
        self._wait, self._prefetch = wait, prefetch
        self._send_again = send_again
        self._held: dict[Receipt, None] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost = False
        self._under_way: set[asyncio.Task[Any]] = set()

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Ask for as many as there is room for; a request is never cancelled, SQS would hide what it answers."""
        deadline = time.monotonic() + timeout
        while not self._ended.done():
            left = deadline - time.monotonic()
            room = min(limit, self._prefetch - len(self._held))
            seconds = max(0, min(self._wait, math.floor(left + ROUNDING)))
            if room > 0 and (deliveries := await self._result(self._start(self._request(room, seconds)))):
                return deliveries
            rest = deadline - time.monotonic()
            if rest <= (1 - ROUNDING if room > 0 and seconds else 0):
                return []
            if room <= 0 or not seconds:  # look again when something may have been settled, or at the end
                await asyncio.wait([self._ended], timeout=min(rest, FULL_SECONDS) if room <= 0 else rest)
        if self._lost:
            raise BrokerLost("the connection to AWS was closed")
        return []

    def keep(self, use: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Every so many seconds say by `use` that somebody is subscribed, lest the queue expire."""
        self._start(self._keep(use, seconds))

    async def _keep(self, use: Callable[[], Awaitable[None]], seconds: float) -> None:
        while not self._ended.done():
            with suppress(BrokerError):  # receive meets the reason
                await use()
            await asyncio.wait([self._ended], timeout=seconds)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _result(self, waiting: asyncio.Task[list[Delivery]]) -> list[Delivery]:
        """What it brings; once the subscription is closed, or who waits here is cancelled, that is put back."""
        taken = False
        both: tuple[asyncio.Future[Any], ...] = (waiting, self._ended)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            taken = waiting.done() and not self._ended.done()
            return waiting.result() if taken else []
        finally:
            if not taken:
                self._start(self._put_back(waiting))

    async def _put_back(self, waiting: asyncio.Task[list[Delivery]]) -> None:
        with suppress(BrokerError):  # then it comes back by its lease
            await self.release(await waiting)

    async def _request(self, limit: int, seconds: int) -> list[Delivery]:
        """One request that waits; while they bring as many as they can, more at a time that do not wait."""
        deliveries = await self._take(min(limit, BATCH), seconds)
        requests, full = 1, len(deliveries) == BATCH
        while full and len(deliveries) < limit and not self._ended.done():
            requests = min(2 * requests, MAX_REQUESTS)
            room = min(limit - len(deliveries), requests * BATCH)
            sizes = [min(BATCH, room - start) for start in range(0, room, BATCH)]
            # one that fails: the next receive meets the reason, and these are in hand already
            answers = await asyncio.gather(*(self._take(size, 0) for size in sizes), return_exceptions=True)
            taken = [answer for answer in answers if isinstance(answer, list)]
            for some in taken:
                deliveries += some
            full = list(map(len, taken)) == sizes
        return deliveries

    async def _take(self, limit: int, seconds: int) -> list[Delivery]:
        deliveries = []
        for message, receipt, returned, unreadable in await self._queue.receive(limit, seconds):
            self._held[receipt] = None
            deliveries.append(Delivery(message, self, receipt, returned, unreadable))
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        with settling_errors():
            await self._queue.delete(self._let_go(deliveries))

    async def retry(self, delivery: Delivery, delay: float) -> None:
        """Send it again, then delete it: SQS's own count cannot tell a retry from a release or a crash."""
        again = replace(delivery.message, attempt=delivery.message.attempt + 1)
        with settling_errors():
            if receipts := self._let_go([delivery]):
                await self._send_again(again, delay)
                await self._queue.delete(receipts)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        with settling_errors():
            await self._queue.hide([(receipt, 0) for receipt in self._let_go(deliveries)])

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        now = time.monotonic()
        receipts = [delivery.tag for delivery in deliveries if delivery.tag.until > now]
        with settling_errors():
            await self._queue.hide([(receipt, self._lease) for receipt in receipts])
        for receipt in receipts:
            receipt.until = now + self._lease

    def _let_go(self, deliveries: Sequence[Delivery]) -> list[Receipt]:
        """Hold them no longer; the receipts of those whose lease has not ended.

        The others must not be settled: who has the message now would lose it. (AWS says that an old receipt does
        nothing, of a FIFO queue that it is refused; moto deletes by it.)
        """
        now = time.monotonic()
        for delivery in deliveries:
            self._held.pop(delivery.tag, None)
        return [delivery.tag for delivery in deliveries if delivery.tag.until > now]

    async def close(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def lose(self) -> None:
        """The transport is closed: who waits is told."""
        self._lost = True
        if not self._ended.done():
            self._ended.set_result(None)

    async def give_back(self) -> None:
        """Wait for the requests under way and put back what they bring and what is held."""
        try:
            while self._under_way:
                await asyncio.wait(self._under_way)
        finally:  # it took too long
            for task in self._under_way:
                task.cancel()
        with suppress(BrokerLost), settling_errors():
            await self._queue.hide([(receipt, 0) for receipt in self._held if receipt.until > time.monotonic()])
