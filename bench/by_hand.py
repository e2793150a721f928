"""What a user would write without mqasync, on the client library that its transport uses; nothing is measured here.

Each class does the same on one broker: `open` makes a queue, `publish` returns when the broker has confirmed so many
events, `consume` handles so many and acknowledges them afterwards. In batches of BATCH where the library offers that
plainly, else one message at a time, BATCH of them at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg
import nats
import redis.asyncio as redis
import stompman
from aiobotocore.session import get_session
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from nats.js.api import RetentionPolicy

from .peers.common import EVENT, PREFETCH
from .rabbitmq import Countdown

NAME = "by-hand"  # of the queue, whatever the broker calls it
BATCH = PREFETCH


class ByHand(Protocol):
    """One broker, by the URL that its server in tests/servers has."""

    def __init__(self, url: str) -> None: ...

    async def open(self) -> None:
        """Make the queue."""

    async def publish(self, count: int) -> None:
        """Publish EVENT so many times, as JSON."""

    async def consume(self, count: int) -> None:
        """Handle so many and acknowledge them."""


async def handle(event: dict[str, Any]) -> None:
    """Nothing."""


def batches(count: int, size: int = BATCH) -> Iterator[range]:
    """So many in batches."""
    for start in range(0, count, size):
        yield range(min(size, count - start))


class Redis:
    """A stream and a group; a pipeline for each batch."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> None:
        async with redis.from_url(self.url) as client:
            await client.xgroup_create(NAME, "workers", id="0", mkstream=True)

    async def publish(self, count: int) -> None:
        async with redis.from_url(self.url) as client:
            for batch in batches(count):
                pipeline = client.pipeline(transaction=False)
                for _ in batch:
                    pipeline.xadd(NAME, {"body": json.dumps(EVENT)})
                await pipeline.execute()

    async def consume(self, count: int) -> None:
        async with redis.from_url(self.url) as client:
            while count > 0:
                read: Any = await client.xreadgroup("workers", "me", {NAME: ">"}, count=min(BATCH, count), block=1000)
                for _, entries in read:
                    for _, fields in entries:
                        await handle(json.loads(fields[b"body"]))
                    handled = [entry for entry, _ in entries]
                    pipeline = client.pipeline(transaction=False)
                    pipeline.xack(NAME, "workers", *handled)
                    pipeline.xdel(NAME, *handled)
                    await pipeline.execute()
                    count -= len(handled)


class Kafka:
    """A topic of as many partitions as mqasync makes; a commit for each batch."""

    def __init__(self, url: str) -> None:
        self.servers = urlsplit(url).netloc

    async def open(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        await admin.create_topics([NewTopic(NAME, num_partitions=8, replication_factor=1)])
        await admin.close()

    async def publish(self, count: int) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.servers, acks="all", enable_idempotence=True) as producer:
            for batch in batches(count):
                confirmed = [await producer.send(NAME, json.dumps(EVENT).encode()) for _ in batch]
                await asyncio.gather(*confirmed)

    async def consume(self, count: int) -> None:
        settings = {"group_id": "workers", "enable_auto_commit": False, "auto_offset_reset": "earliest"}
        async with AIOKafkaConsumer(NAME, bootstrap_servers=self.servers, **settings) as consumer:
            while count > 0:
                read = await consumer.getmany(timeout_ms=1000, max_records=min(BATCH, count))
                for records in read.values():
                    for record in records:
                        await handle(json.loads(record.value))
                    count -= len(records)
                await consumer.commit()


class NATS:
    """A work queue and a durable pull consumer; each message is confirmed, and is gone once it is acknowledged."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> None:
        async with await nats.connect(self.url) as client:
            queue = RetentionPolicy.WORK_QUEUE
            await client.jetstream().add_stream(name=NAME, subjects=[NAME], retention=queue)

    async def publish(self, count: int) -> None:
        async with await nats.connect(self.url) as client:
            stream = client.jetstream()
            for batch in batches(count):
                confirmed = [await stream.publish_async(NAME, json.dumps(EVENT).encode()) for _ in batch]
                await asyncio.gather(*confirmed)

    async def consume(self, count: int) -> None:
        async with await nats.connect(self.url) as client:
            subscription = await client.jetstream().pull_subscribe(NAME, durable="workers")
            while count > 0:
                messages = await subscription.fetch(min(BATCH, count))
                for message in messages:
                    await handle(json.loads(message.data))
                    await message.ack()
                count -= len(messages)


class PostgreSQL:
    """A table; a transaction for each batch."""

    def __init__(self, url: str) -> None:
        self.url = url.partition("?")[0]

    async def open(self) -> None:
        await self._connected(
            lambda connection: connection.execute("CREATE TABLE jobs (id bigserial PRIMARY KEY, body bytea NOT NULL)")
        )

    async def publish(self, count: int) -> None:
        async def work(connection: Any) -> None:
            for batch in batches(count):
                bodies = [(json.dumps(EVENT).encode(),) for _ in batch]
                await connection.executemany("INSERT INTO jobs (body) VALUES ($1)", bodies)

        await self._connected(work)

    async def consume(self, count: int) -> None:
        take = """
            DELETE FROM jobs WHERE id IN (SELECT id FROM jobs ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
            RETURNING body
        """

        async def work(connection: Any) -> None:
            left = count
            while left > 0:
                async with connection.transaction():
                    rows = await connection.fetch(take, min(BATCH, left))
                    for row in rows:
                        await handle(json.loads(row["body"]))
                left -= len(rows)

        await self._connected(work)

    async def _connected(self, work: Callable[[Any], Awaitable[object]]) -> None:
        connection = await asyncpg.connect(self.url, ssl=False)
        try:
            await work(connection)
        finally:
            await connection.close()


class ActiveMQ:
    """A queue; a receipt and an acknowledgement for each message, as stompman has them."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.server = stompman.ConnectionParameters(
            host=str(parts.hostname), port=int(parts.port or 0), login="", passcode=""
        )

    async def open(self) -> None:
        """A queue is there once it is used."""

    async def publish(self, count: int) -> None:
        persistent = {"persistent": "true"}
        async with stompman.Client([self.server]) as client:
            for batch in batches(count):
                sending = (
                    client.send(json.dumps(EVENT).encode(), f"/queue/{NAME}", headers=persistent, receipt_timeout=30)
                    for _ in batch
                )
                await asyncio.gather(*sending)

    async def consume(self, count: int) -> None:
        countdown = Countdown(count)

        async def handled(message: stompman.AckableMessageFrame) -> None:
            await handle(json.loads(message.body))
            await message.ack()
            countdown.seen()

        async with stompman.Client([self.server]) as client:
            prefetch = {"activemq.prefetchSize": str(PREFETCH)}
            subscription = await client.subscribe_with_manual_ack(f"/queue/{NAME}", handled, headers=prefetch)
            await countdown
            await subscription.unsubscribe()


class SQS:
    """A topic with a queue; the largest batch that AWS takes, of 10."""

    SIZE = 10

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        endpoint = parts.query.partition("endpoint=")[2].partition("&")[0]
        self.made = {"region_name": parts.netloc, "endpoint_url": endpoint}
        self.topic = self.queue = ""

    async def open(self) -> None:
        async with AsyncExitStack() as stack:
            sns, sqs = [await stack.enter_async_context(self._client(service)) for service in ("sns", "sqs")]
            self.topic = (await sns.create_topic(Name=NAME))["TopicArn"]
            self.queue = (await sqs.create_queue(QueueName=NAME))["QueueUrl"]
            about = await sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])
            raw = {"RawMessageDelivery": "true"}
            arn = about["Attributes"]["QueueArn"]
            await sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn, Attributes=raw)

    def _client(self, service: str) -> Any:
        return get_session().create_client(service, **self.made)

    async def publish(self, count: int) -> None:
        async with self._client("sns") as sns:
            for batch in batches(count, self.SIZE):
                entries = [{"Id": str(n), "Message": json.dumps(EVENT)} for n in batch]
                await sns.publish_batch(TopicArn=self.topic, PublishBatchRequestEntries=entries)

    async def consume(self, count: int) -> None:
        async with self._client("sqs") as sqs:
            while count > 0:
                answer = await sqs.receive_message(
                    QueueUrl=self.queue, MaxNumberOfMessages=min(self.SIZE, count), WaitTimeSeconds=1
                )
                messages = answer.get("Messages", [])
                for message in messages:
                    await handle(json.loads(message["Body"]))
                entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)]
                if entries:
                    await sqs.delete_message_batch(QueueUrl=self.queue, Entries=entries)
                count -= len(messages)
