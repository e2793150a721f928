"""The requests to one SQS queue: receive, delete, hide; who holds what is not known here."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ..message import Message
from .sqs_connection import Connection
from .sqs_message import BATCH, unpack
from .sqs_settings import LIMITS

LONGEST_SECONDS = LIMITS["lease"][1]  # that a message can be hidden


class Receipt(msgspec.Struct, eq=False):
    """By which a delivery is settled, and until when (time.monotonic()) it is ours."""

    handle: str
    until: float


class Received(NamedTuple):
    """One message, as Delivery wants it."""

    message: Message
    receipt: Receipt
    returned: int
    unreadable: str


class Queue:
    """The queue at `url`."""

    def __init__(self, connection: Connection, exchange: str, url: str, lease: int) -> None:
        self.lease = lease
        self._connection, self._exchange, self._url = connection, exchange, url

    async def receive(self, limit: int, seconds: int) -> list[Received]:
        """Wait for `seconds`; take `limit`, at most 10, for one lease. What is not due is hidden again."""
        answer = await self._connection.sqs(
            "receive_message",
            QueueUrl=self._url,
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=seconds,
            VisibilityTimeout=self.lease,
            AttributeNames=["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
            MessageAttributeNames=["All"],
        )
        received: list[Received] = []
        early: list[tuple[Receipt, int]] = []
        for one in answer.get("Messages", []):
            message, due, unreadable = unpack(self._exchange, one)
            receipt = Receipt(one["ReceiptHandle"], time.monotonic() + self.lease)
            if due > time.time():
                early.append((receipt, min(LONGEST_SECONDS, math.ceil(due - time.time()))))
                continue
            returned = int(one["Attributes"]["ApproximateReceiveCount"]) - 1
            received.append(Received(message, receipt, returned, unreadable))
        await self.hide(early)
        return received

    async def delete(self, receipts: Sequence[Receipt]) -> None:
        """For good."""
        await self._settle("delete_message_batch", [{"ReceiptHandle": receipt.handle} for receipt in receipts])

    async def hide(self, receipts: Sequence[tuple[Receipt, int]]) -> None:
        """From everybody for so many seconds from now; 0 puts back."""
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
