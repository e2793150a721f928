"""Topics, queues and what binds them: made, found and checked; no message passes here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ..errors import BrokerLost, BrokerRefused, Unroutable
from ..transport import Options
from .sqs_connection import Connection
from .sqs_errors import absent
from .sqs_names import queue_name, topic_name
from .sqs_settings import FIFO, RETENTION_SECONDS, attributes

BOUND_SECONDS = 10.0  # so long a topic that had a subscription is believed to have one
DEPTHS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
)


class Topology:
    """What is known of topics and queues, asked for where it is not."""

    def __init__(self, connection: Connection, options: Options) -> None:
        self._connection = connection
        self._options = options
        self._topics: dict[str, str] = {}  # ARN by exchange
        self._urls: dict[tuple[str, str], str] = {}
        self._bound_until: dict[str, float] = {}  # time.monotonic() by exchange

    def fifo(self, exchange: str) -> bool:
        """Whether the topic and the queues of `exchange` are FIFO."""
        return bool(self._options.get(exchange, {}).get(FIFO))

    async def topic(self, exchange: str) -> str:
        """The ARN of the topic, made if it is not there."""
        if exchange not in self._topics:
            fifo = self.fifo(exchange)
            made = {"FifoTopic": "true"} if fifo else {}
            answer = await self._connection.sns("create_topic", Name=topic_name(exchange, fifo), Attributes=made)
            self._topics[exchange] = answer["TopicArn"]
        return self._topics[exchange]

    async def bound_topic(self, exchange: str) -> str:
        """The ARN of the topic. Raises Unroutable where nothing is subscribed: SNS would drop the message."""
        topic = await self.topic(exchange)
        if self._bound_until.get(exchange, 0.0) < time.monotonic():
            answer = await self._connection.sns("list_subscriptions_by_topic", TopicArn=topic)
            # others are "PendingConfirmation" or "Deleted"
            if not any(one["SubscriptionArn"].startswith("arn:") for one in answer["Subscriptions"]):
                raise Unroutable(f"no queue is bound to exchange {exchange!r}")
            self._bound(exchange)
        return topic

    def _bound(self, exchange: str) -> None:
        self._bound_until[exchange] = time.monotonic() + BOUND_SECONDS

    def forget(self, exchange: str) -> None:
        """Ask anew: the topic may not be there any more."""
        self._topics.pop(exchange, None)
        self._bound_until.pop(exchange, None)

    async def declare(self, exchange: str, id: str, bound: bool) -> None:
        """Make the queue, let the topic send to it, and subscribe it."""
        topic = None
        if bound:
            self.forget(exchange)  # somebody may have deleted it
            topic = await self.topic(exchange)
        url = await self._find(exchange, id) or await self._create(exchange, id, topic)
        asked = await self._connection.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
        existing: Mapping[str, str] = asked["Attributes"]
        for name, value in attributes(self._options.get(exchange, {})).items():
            if existing.get(name) != value:
                known = f"{name} {existing.get(name)!r}; {value!r} is configured"
                raise BrokerRefused(f"the queue {url.rpartition('/')[2]} exists with {known}")
        if topic:
            await self._allow(url, existing, topic)
            await self._connection.sns(
                "subscribe",
                TopicArn=topic,
                Protocol="sqs",
                Endpoint=existing["QueueArn"],
                Attributes={"RawMessageDelivery": "true"},
                ReturnSubscriptionArn=True,
            )
            self._bound(exchange)

    async def _create(self, exchange: str, id: str, topic: str | None) -> str:
        made = {"MessageRetentionPeriod": str(RETENTION_SECONDS)}
        if self.fifo(exchange):
            made["FifoQueue"] = "true"
        name = queue_name(exchange, id, self.fifo(exchange))
        if topic:  # at once: a policy that is changed later takes effect within a minute only
            made["Policy"] = json.dumps(_policy({}, _queue_arn(topic, name), topic))
        made |= attributes(self._options.get(exchange, {}))
        answer = await self._connection.sqs("create_queue", QueueName=name, Attributes=made)
        self._urls[exchange, id] = answer["QueueUrl"]
        return self._urls[exchange, id]

    async def _allow(self, url: str, existing: Mapping[str, str], topic: str) -> None:
        """Let the topic send to a queue that somebody else has made."""
        policy = existing.get("Policy", "")
        if topic not in policy:
            allowed = json.dumps(_policy(json.loads(policy or "{}"), existing["QueueArn"], topic))
            await self._connection.sqs("set_queue_attributes", QueueUrl=url, Attributes={"Policy": allowed})

    async def _find(self, exchange: str, id: str) -> str | None:
        """The URL of the queue, asked for anew; None if it is not there."""
        name = queue_name(exchange, id, self.fifo(exchange))
        try:
            answer = await self._connection.sqs("get_queue_url", QueueName=name)
        except BrokerLost as error:
            if not absent(error):
                raise
            return None
        self._urls[exchange, id] = answer["QueueUrl"]
        return self._urls[exchange, id]

    async def queue(self, exchange: str, id: str) -> str:
        """The URL of a declared queue. Raises BrokerLost where it is not there any more."""
        url = self._urls.get((exchange, id)) or await self._find(exchange, id)
        if url is None:
            raise BrokerLost(f"there is no queue of {id!r} at exchange {exchange!r}")
        return url

    async def depth(self, exchange: str, id: str) -> int:
        """All that is there, also what somebody holds: a dead process's messages come back."""
        url = await self.queue(exchange, id)
        answer = await self._connection.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=list(DEPTHS))
        return sum(int(answer["Attributes"].get(name, 0)) for name in DEPTHS)


def _queue_arn(topic: str, name: str) -> str:
    """That of a queue in the topic's own region and account."""
    _, partition, _, region, account, _ = topic.split(":")
    return f"arn:{partition}:sqs:{region}:{account}:{name}"


def _policy(existing: dict[str, Any], queue: str, topic: str) -> dict[str, Any]:
    """The policy and one statement more: this topic alone may send."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    statements = existing.get("Statement", [])
    others = statements if isinstance(statements, list) else [statements]
    return {"Version": "2012-10-17", **existing, "Statement": [*others, statement]}
