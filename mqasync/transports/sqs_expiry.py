"""Queues of SQS that expire, which SQS has not: what is written down of them; nothing is made or deleted here.

Their tags say after how many seconds they expire, and when somebody was last seen to be subscribed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from ..errors import BrokerRefused
from .sqs_connection import Connection
from .sqs_errors import if_there

SECONDS, USED = "mqasync-expires-seconds", "mqasync-used"
USES = 3  # so often within its seconds it is written down that a queue is in use
LEFTOVER_SECONDS = 600  # how long a queue that expires keeps a message, at least


def retention(expires: float) -> str:
    """For its MessageRetentionPeriod: what is left of the queue of a killed process does not grow."""
    return str(max(LEFTOVER_SECONDS, math.ceil(expires)))


def tags(expires: float) -> dict[str, str]:
    """Of a queue that is in use now."""
    return {SECONDS: str(expires), USED: str(int(time.time()))}


class Expiry:
    """Reads and writes the tags."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lasting: set[str] = set()  # ARNs of queues that do not expire

    async def use(self, url: str, expires: float) -> None:
        """Somebody is subscribed to the queue."""
        await self._connection.sqs("tag_queue", QueueUrl=url, Tags=tags(expires))

    async def seconds(self, url: str) -> float | None:
        """After how many seconds the queue expires; None if it does not, or we must not ask."""
        found = await self._tags(url)
        return float(found[SECONDS]) if SECONDS in found else None

    async def expired(self, queue: str) -> bool:
        """True if the queue with that ARN was not used for its time; False where we must not ask."""
        if queue in self._lasting:
            return False
        with if_there():
            try:
                answer = await self._connection.sqs("get_queue_url", QueueName=queue.rpartition(":")[2])
            except BrokerRefused:
                return False
            found = await self._tags(answer["QueueUrl"])
            if SECONDS in found:
                return int(found[USED]) + 1 + float(found[SECONDS]) < time.time()
            self._lasting.add(queue)
        return False

    async def _tags(self, url: str) -> Mapping[str, str]:
        try:
            answer = await self._connection.sqs("list_queue_tags", QueueUrl=url)
        except BrokerRefused:
            return {}
        tags: Mapping[str, str] = answer.get("Tags", {})
        return tags
