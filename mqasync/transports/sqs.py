"""SNS and SQS of AWS, or of a server like them, through aiobotocore; no retrying, decoding or handling.

URL: sqs://REGION, as in sqs://eu-central-1. Credentials come from the AWS environment (AWS_ACCESS_KEY_ID,
    AWS_PROFILE, a role and so on), never from the URL. After "?":
    endpoint (http://127.0.0.1:5000 for a compatible server; default AWS itself),
    lease (whole seconds until an unsettled delivery comes back by itself, default 30),
    wait (whole seconds that one request waits for messages, default 2, at most 20). A longer wait costs fewer
    requests, and a consumer that stops takes as long; after 4 seconds it goes, and what SQS sends it then
    comes back one lease later.
    TLS is always verified; AWS_CA_BUNDLE names a file of trusted certificates.
Options: by exchange, fifo (true: FIFO topic and queues, Message.key as message group; another queue than
    without) and the queue attributes MessageRetentionPeriod, MaximumMessageSize, KmsMasterKeyId,
    KmsDataKeyReusePeriodSeconds, SqsManagedSseEnabled, DeduplicationScope, FifoThroughputLimit.
Delivery: a topic for each exchange, a queue for each id, subscribed with raw delivery; its policy lets that topic
    send. A delivery is leased; after its end settling has no effect. What a killed process held comes back one
    lease later and is counted (ApproximateReceiveCount).
Order: about first in, first out with one consumer. FIFO: exactly, within a key and until one of its messages is
    retried or put back; AWS drops what is published again with the same id within five minutes.
Delay: rounded up to whole seconds. What waits longer than 15 minutes, or in a FIFO queue at all, is received and
    hidden again; in a FIFO queue its key waits with it.
Dead letters: "exchange.id.dead".
What it cannot do: keep a message longer than 14 days, hold a delivery longer than 12 hours, carry a body larger
    than 140 KiB, tell a drained delivery from one whose process died (returned counts both), count exactly, tell
    who consumes, list queues whose "exchange.id" has about 80 characters and more (their names are cut), let a
    queue expire. For that tags say when a queue was last used: who next makes a queue that expires, at the same
    exchange, deletes what has expired. Until then nobody counts it as bound; it keeps a message for 10 minutes.
    AWS may take some seconds until a new subscription is in effect, and a minute until a deleted queue is gone for
    all and can be made again. For 10 seconds after an exchange lost its last queue, who published there just
    before is not told (it is no error, and nobody gets it).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from ..errors import BrokerLost, BrokerRefused, Unroutable
from ..message import Message, new_id
from ..transport import Features, Options, QueueStats
from . import sqs_settings
from .sqs_connection import Connection
from .sqs_errors import absent, check_batch
from .sqs_expiry import USES, Expiry
from .sqs_inventory import Inventory
from .sqs_message import MAX_BYTES, Packed, batches, check_sizes, pack
from .sqs_queue import Queue
from .sqs_subscription import SQSSubscription
from .sqs_topology import Topology

MAX_DELAY = 900  # seconds, of SQS's own
CLOSE_SECONDS = 4.0  # the core gives 5
IN_MEMORY = (
    "{} is not AWS: moto, LocalStack, ElasticMQ and their like keep messages in memory unless they are told"
    " otherwise, and lose them when they restart; switch their persistence on, or use AWS"
)


class SQSTransport:
    """One user of SNS and SQS, good until a request gets no answer."""

    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=MAX_BYTES)
    blocked = ""
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        self._settings = sqs_settings.parse(url)
        sqs_settings.check(options)
        self._connection = Connection(self._settings)
        self._expiry = Expiry(self._connection)
        self._topology = Topology(self._connection, options, self._expiry)
        self._inventory = Inventory(self._connection, self._topology, self._expiry)
        self._subscriptions: list[SQSSubscription] = []

    async def open(self) -> None:
        await self._connection.open()
        try:  # any request will do, to hear whether somebody answers and knows us
            await self._connection.sqs("list_queues", MaxResults=1)
        except BrokerRefused as error:
            if "AccessDenied" not in str(error):
                raise  # to list is not needed: who may not is known all the same
        if self._settings.endpoint and ".amazonaws.com" not in self._settings.endpoint:
            self.warning = IN_MEMORY.format(self._settings.endpoint)

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        if expires is not None:  # who makes queues that expire takes away what others have left
            await self._inventory.delete_expired(exchange)
        await self._topology.declare(exchange, id, bound, expires)

    async def delete(self, exchange: str, id: str) -> None:
        await self._inventory.delete(exchange, id)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        packed = [pack(message) for message in messages]
        check_sizes(packed, exchange)
        fifo = self._topology.fifo(exchange)
        try:
            topic = await self._topology.bound_topic(exchange)
            for batch in batches(packed):  # one after another keeps their order; the core has several calls under way
                entries = _numbered(batch, "Message", fifo)
                answer = await self._connection.sns("publish_batch", TopicArn=topic, PublishBatchRequestEntries=entries)
                check_batch(answer, len(batch))
        except BrokerLost as error:
            if not absent(error):
                raise
            self._topology.forget(exchange)
            raise Unroutable(f"no queue is bound to exchange {exchange!r}: its topic was deleted") from error

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        fifo = self._topology.fifo(exchange)
        seconds = math.ceil(delay)
        due = time.time() + delay if (fifo and delay > 0) or seconds > MAX_DELAY else 0.0
        url = await self._topology.queue(exchange, id)
        for batch in batches(pack(message, due, new_id()) for message in messages):
            entries = _numbered(batch, "MessageBody", fifo)
            if not fifo:
                entries = [entry | {"DelaySeconds": min(seconds, MAX_DELAY)} for entry in entries]
            check_batch(await self._connection.sqs("send_message_batch", QueueUrl=url, Entries=entries), len(batch))

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> SQSSubscription:
        async def send_again(message: Message, delay: float) -> None:
            await self.send(exchange, id, [message], delay)

        url = await self._topology.queue(exchange, id)
        queue = Queue(self._connection, exchange, url, self._settings.lease)
        subscription = SQSSubscription(queue, self._settings.wait, prefetch, send_again)
        self._subscriptions.append(subscription)
        expires = await self._expiry.seconds(url)
        if expires is not None:
            subscription.keep(partial(self._expiry.use, url, expires), expires / USES)
        return subscription

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        return await self._inventory.stats(exchange, id)

    async def queues(self) -> list[tuple[str, str]] | None:
        return await self._inventory.queues()

    async def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.lose()
        with suppress(TimeoutError):  # in an outage nothing can be given back
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(subscription.give_back() for subscription in self._subscriptions))
        await self._connection.close()


def _numbered(batch: Sequence[Packed], body_field: str, fifo: bool) -> list[dict[str, object]]:
    """The entries of one request; the numbers only tell them apart."""
    return [{"Id": str(n), **packed.entry(body_field, fifo)} for n, packed in enumerate(batch)]
