"""One consumer of one SQS queue: what it receives, what it holds and how each is settled; no topic is known here."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from ..errors import BrokerError, BrokerLost
from ..message import Message
from ..transport import Delivery
from .sqs_connection import Connection
from .sqs_errors import settling_errors
from .sqs_message import BATCH, unpack
from .sqs_settings import LIMITS, Settings

MAX_REQUESTS = 8  # that one receive has under way
ROUNDING = 0.6  # SQS waits whole seconds: what is left from 0.4 s on is rounded up, less is slept here
FULL_SECONDS = 0.05  # look so often whether something was settled
MOST_SECONDS = LIMITS["lease"][1]  # that a message can be hidden

T = TypeVar("T")
SendAgain = Callable[[Message, float], Awaitable[None]]


class Receipt(msgspec.Struct, eq=False):
    """A delivery's tag: by which it is settled, and until when (time.monotonic()) it is ours."""

    handle: str
    until: float


class SQSSubscription:
    """One queue's deliveries; settled where they came from."""

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        exchange: str,
        queue_url: str,
        prefetch: int,
        send_again: SendAgain,
    ) -> None:
        """Made by SQSTransport.subscribe; `send_again` sends to this queue with a delay."""
        self.lease: float | None = float(settings.lease)
        self._connection, self._settings = connection, settings
        self._exchange, self._url, self._prefetch = exchange, queue_url, prefetch
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
            seconds = max(0, min(self._settings.wait, math.floor(left + ROUNDING)))
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

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _result(self, waiting: asyncio.Task[list[Delivery]]) -> list[Delivery]:
        """What it brings; once the subscription is closed, or who waits here is cancelled, that is put back."""
        taken = False
        try:
            both: tuple[asyncio.Future[Any], ...] = (waiting, self._ended)
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
            sizes = list(_sizes(limit - len(deliveries), requests))
            # one that fails: the next receive meets the reason, and these are in hand already
            answers = await asyncio.gather(*(self._take(size, 0) for size in sizes), return_exceptions=True)
            for answer in answers:
                deliveries += answer if isinstance(answer, list) else []
            full = all(isinstance(answer, list) and answer for answer in answers)
        return deliveries

    async def _take(self, limit: int, seconds: int) -> list[Delivery]:
        answer = await self._connection.sqs(
            "receive_message",
            QueueUrl=self._url,
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=seconds,
            VisibilityTimeout=self._settings.lease,
            AttributeNames=["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
            MessageAttributeNames=["All"],
        )
        deliveries, early = [], []
        for received in answer.get("Messages", []):
            message, due, unreadable = unpack(self._exchange, received)
            receipt = Receipt(received["ReceiptHandle"], time.monotonic() + self._settings.lease)
            if due > time.time():
                early.append((receipt, min(MOST_SECONDS, math.ceil(due - time.time()))))
                continue
            returned = int(received["Attributes"]["ApproximateReceiveCount"]) - 1
            self._held[receipt] = None
            deliveries.append(Delivery(message, self, receipt, returned, unreadable))
        await self._hide(early)
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        with settling_errors():
            await self._delete(self._ours(deliveries))

    async def retry(self, delivery: Delivery, delay: float) -> None:
        """Send it again, then delete it: SQS's own count cannot tell a retry from a release or a crash."""
        message = delivery.message
        again = msgspec.structs.replace(message, attempt=message.attempt + 1)
        with settling_errors():
            if receipts := self._ours([delivery]):
                await self._send_again(again, delay)
                await self._delete(receipts)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        with settling_errors():
            await self._hide([(receipt, 0) for receipt in self._ours(deliveries)])

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        now = time.monotonic()
        receipts = [delivery.tag for delivery in deliveries if delivery.tag.until > now]
        with settling_errors():
            await self._hide([(receipt, self._settings.lease) for receipt in receipts])
        for receipt in receipts:
            receipt.until = now + self._settings.lease

    def _ours(self, deliveries: Sequence[Delivery]) -> list[Receipt]:
        """Let go of them; the receipts of those whose lease has not ended.

        What comes later must not reach SQS: who has the message now would lose it (moto, and FIFO queues aside
        AWS promises nothing).
        """
        now = time.monotonic()
        for delivery in deliveries:
            self._held.pop(delivery.tag, None)
        return [delivery.tag for delivery in deliveries if delivery.tag.until > now]

    async def _delete(self, receipts: Sequence[Receipt]) -> None:
        entries = [{"ReceiptHandle": receipt.handle} for receipt in receipts]
        await self._settle("delete_message_batch", entries)

    async def _hide(self, receipts: Sequence[tuple[Receipt, int]]) -> None:
        entries = [{"ReceiptHandle": receipt.handle, "VisibilityTimeout": seconds} for receipt, seconds in receipts]
        await self._settle("change_message_visibility_batch", entries)

    async def _settle(self, operation: str, entries: Sequence[dict[str, Any]]) -> None:
        """What SQS says has failed is not ours any more, or comes back by its lease."""
        requests = []
        for start in range(0, len(entries), BATCH):
            batch = [{"Id": str(n), **entry} for n, entry in enumerate(entries[start : start + BATCH])]
            requests.append(self._connection.sqs(operation, QueueUrl=self._url, Entries=batch))
        for outcome in await asyncio.gather(*requests, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

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
            await self._hide([(receipt, 0) for receipt in self._held if receipt.until > time.monotonic()])


def _sizes(limit: int, most: int) -> Iterator[int]:
    """`limit` in parts of a request's size, as many as `most`."""
    for start in range(0, min(limit, BATCH * most), BATCH):
        yield min(BATCH, limit - start)
