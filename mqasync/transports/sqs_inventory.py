"""Which queues there are, what is in them, and their end; nothing is made here, and no message passes."""

from __future__ import annotations

from ..transport import QueueStats
from .names import named
from .sqs_connection import Connection, pages
from .sqs_errors import if_there
from .sqs_expiry import Expiry
from .sqs_names import queue_name, read, topic_name
from .sqs_topology import Topology, arn_beside

AVAILABLE, HELD, DELAYED = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
PAGE = 1000  # without this SQS gives one page and no more


class Inventory:
    """Looks at queues and deletes them."""

    def __init__(self, connection: Connection, topology: Topology, expiry: Expiry) -> None:
        self._connection, self._topology, self._expiry = connection, topology, expiry

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """All that is there, also what somebody holds: a dead process's messages come back."""
        url = await self._topology.find(exchange, id)
        if url is None:
            return None
        with if_there():
            names = [AVAILABLE, HELD, DELAYED]
            answer = await self._connection.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=names)
            available, held, delayed = (int(answer["Attributes"].get(name, 0)) for name in names)
            return QueueStats(available + held, delayed)
        return None

    async def queues(self, prefix: str = "") -> list[tuple[str, str]]:
        """(exchange, id) of those whose names can be read, which begin with `prefix`."""
        urls = await pages(self._connection.sqs, "list_queues", "QueueUrls", QueueNamePrefix=prefix, MaxResults=PAGE)
        found = []
        for name in (url.rpartition("/")[2] for url in urls):
            queue = named(read(name))
            if queue and name == queue_name(*queue, self._topology.fifo(queue[0])):
                found.append(queue)
        return found

    async def delete(self, exchange: str, id: str) -> None:
        """End its subscription, then delete it."""
        url = await self._topology.find(exchange, id)
        if url is None:
            return
        with if_there():
            queue = await self._topology.arn(url)
            await self._unsubscribe(queue, topic_name(exchange, self._topology.fifo(exchange)))
            await self._connection.sqs("delete_queue", QueueUrl=url)
        self._topology.forget(exchange)

    async def _unsubscribe(self, queue: str, topic: str) -> None:
        """End what `topic` sends to the queue with that ARN."""
        with if_there():
            for one in await self._topology.subscriptions(arn_beside(queue, "sns", topic)):
                if one["Endpoint"] == queue:
                    await self._connection.sns("unsubscribe", SubscriptionArn=one["SubscriptionArn"])

    async def delete_expired(self, exchange: str) -> None:
        """Delete the queues of `exchange` that have expired."""
        for name, id in await self.queues(topic_name(exchange, fifo=False)):
            url = await self._topology.find(name, id) if name == exchange else None
            if url:
                with if_there():
                    if await self._expiry.expired(await self._topology.arn(url)):
                        await self.delete(name, id)
