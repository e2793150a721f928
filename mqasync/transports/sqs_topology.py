"""Topics, queues and what binds them: made, found and checked; no message passes here, and none is counted."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import BrokerLost, BrokerRefused, Unroutable
from ..transport import Options
from .sqs_connection import Connection, pages
from .sqs_errors import if_there
from .sqs_expiry import Expiry, retention, tags
from .sqs_names import queue_name, topic_name
from .sqs_settings import FIFO, RETENTION_SECONDS, attributes

BOUND_SECONDS = 10.0  # so long a topic that had a subscription is believed to have one


class Topology:
    """What is known of topics and queues, asked for where it is not."""

    def __init__(self, connection: Connection, options: Options, expiry: Expiry) -> None:
        self._connection = connection
        self._expiry = expiry
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
            if not await self._any_takes(await self.subscriptions(topic)):
                raise Unroutable(f"no queue is bound to exchange {exchange!r}")
            self._bound(exchange)
        return topic

    async def subscriptions(self, topic: str) -> list[dict[str, str]]:
        """Those of the topic that are in effect."""
        found = await pages(self._connection.sns, "list_subscriptions_by_topic", "Subscriptions", TopicArn=topic)
        # others are "PendingConfirmation" or "Deleted"
        return [one for one in found if one["SubscriptionArn"].startswith("arn:")]

    async def _any_takes(self, subscriptions: Sequence[Mapping[str, str]]) -> bool:
        """False if there are none but those of queues that have expired."""
        for one in subscriptions:
            if one["Protocol"] != "sqs" or not await self._expiry.expired(one["Endpoint"]):
                return True
        return False

    def _bound(self, exchange: str) -> None:
        self._bound_until[exchange] = time.monotonic() + BOUND_SECONDS

    def forget(self, exchange: str) -> None:
        """Ask anew: the topic may not be there any more."""
        self._topics.pop(exchange, None)
        self._bound_until.pop(exchange, None)

    async def declare(self, exchange: str, id: str, bound: bool, expires: float | None) -> None:
        """Make the queue, let the topic send to it, and subscribe it."""
        topic = None
        if bound:
            self.forget(exchange)  # somebody may have deleted it
            topic = await self.topic(exchange)
        url = await self.find(exchange, id) or await self._create(exchange, id, topic, expires)
        asked = await self._connection.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
        existing: Mapping[str, str] = asked["Attributes"]
        for name, value in attributes(self._options.get(exchange, {})).items():
            if existing.get(name) != value:
                known = f"{name} {existing.get(name)!r}; {value!r} is configured"
                raise BrokerRefused(f"the queue {url.rpartition('/')[2]} exists with {known}")
        if expires is not None:
            await self._expiry.use(url, expires)
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

    async def _create(self, exchange: str, id: str, topic: str | None, expires: float | None) -> str:
        made = {"MessageRetentionPeriod": str(RETENTION_SECONDS) if expires is None else retention(expires)}
        if self.fifo(exchange):
            made["FifoQueue"] = "true"
        name = queue_name(exchange, id, self.fifo(exchange))
        if topic:  # at once: a policy that is changed later takes effect within a minute only
            made["Policy"] = json.dumps(_policy({}, arn_beside(topic, "sqs", name), topic))
        made |= attributes(self._options.get(exchange, {}))
        tagged = {} if expires is None else {"tags": tags(expires)}
        answer = await self._connection.sqs("create_queue", QueueName=name, Attributes=made, **tagged)
        self._urls[exchange, id] = answer["QueueUrl"]
        return self._urls[exchange, id]

    async def _allow(self, url: str, existing: Mapping[str, str], topic: str) -> None:
        """Let the topic send to a queue that somebody else has made."""
        policy = existing.get("Policy", "")
        if topic not in policy:
            allowed = json.dumps(_policy(json.loads(policy or "{}"), existing["QueueArn"], topic))
            await self._connection.sqs("set_queue_attributes", QueueUrl=url, Attributes={"Policy": allowed})

    async def find(self, exchange: str, id: str) -> str | None:
        """The URL of the queue, asked for anew; None if it is not there."""
        name = queue_name(exchange, id, self.fifo(exchange))
        self._urls.pop((exchange, id), None)
        with if_there():
            answer = await self._connection.sqs("get_queue_url", QueueName=name)
            self._urls[exchange, id] = answer["QueueUrl"]
        return self._urls.get((exchange, id))

    async def queue(self, exchange: str, id: str) -> str:
        """The URL of a declared queue. Raises BrokerLost where it is not there any more."""
        url = self._urls.get((exchange, id)) or await self.find(exchange, id)
        if url is None:
            raise BrokerLost(f"there is no queue of {id!r} at exchange {exchange!r}")
        return url

    async def arn(self, url: str) -> str:
        """By which SNS and the tags know the queue."""
        asked = await self._connection.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
        arn: str = asked["Attributes"]["QueueArn"]
        return arn


def arn_beside(arn: str, service: str, name: str) -> str:
    """That of a topic (of sns) or queue (of sqs) in the region and account of another one."""
    _, partition, _, region, account, _ = arn.split(":")
    return f"arn:{partition}:{service}:{region}:{account}:{name}"


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
