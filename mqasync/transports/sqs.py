"""SNS and SQS of AWS, or of a server like them, through aiobotocore; no retrying, decoding or handling.

URL: sqs://REGION, as in sqs://eu-central-1. Credentials come from the AWS environment (AWS_ACCESS_KEY_ID,
    AWS_PROFILE, a role and so on), never from the URL. After "?":
    endpoint (http://127.0.0.1:5000 for a compatible server; default AWS itself),
    lease (whole seconds until an unacknowledged message is redelivered, default 30),
    wait (whole seconds that one request waits for messages, default 2, at most 20). A longer wait costs fewer
    requests, but a consumer takes that long to stop; after 3 seconds it stops anyway, and messages that SQS sends
    it then are redelivered one lease later.
    TLS is always verified; AWS_CA_BUNDLE names a file of trusted certificates.
Options: by exchange, fifo (true: FIFO topic and queues, with Message.key as message group; a different queue than
    without fifo) and the queue attributes MessageRetentionPeriod, MaximumMessageSize, KmsMasterKeyId,
    KmsDataKeyReusePeriodSeconds, SqsManagedSseEnabled, DeduplicationScope, FifoThroughputLimit. `queue` of a consumer
    names an existing queue, see docs/existing.md.
Delivery: a topic for each exchange, and a queue for each id, subscribed with raw delivery; its policy allows that
    topic to send. A body that SQS does not accept as text is sent as base64. A delivery is leased; a message that is
    acknowledged or retried after its lease has ended may be duplicated. Messages in flight in a killed process are
    redelivered one lease later, and counted (ApproximateReceiveCount).
Order: approximately first in, first out with one consumer. FIFO: exactly, within a key and until one of its messages
    is retried or requeued; AWS drops a message that is published again with the same id within five minutes.
Delay: rounded up to whole seconds. A message with a delay of more than 15 minutes, or with any delay in a FIFO queue,
    is received and hidden again; in a FIFO queue the messages of its key wait with it.
Dead letters: "exchange.id.dead".
What it cannot do: keep a message longer than 14 days, or in flight longer than 12 hours, carry a body larger
    than 140 KiB, distinguish a message that a drain requeued from one whose process died (returned counts both),
    count exactly, report consumers, list queues whose "exchange.id" has about 80 characters or more (their names are
    shortened). AWS may take some seconds until a new subscription is in effect, and a minute until a deleted queue is
    gone everywhere and can be created again. For 10 seconds after an exchange has lost its last queue, a process that
    published there just before gets no error: such messages reach no queue.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore import exceptions as aws
from msgspec.structs import replace

from ..errors import BrokerBusy, BrokerRefused, ConfigurationError, MessageTooLarge, NoSuchQueue
from ..message import Message, new_id
from ..transport import Delivery, Features, Options, QueueStats
from .common.envelope import DUE, pack, unpack
from .common.names import named
from .common.url import Key, check_options, check_same, existing, missing, parse

URL_KEYS = {"endpoint": Key(""), "lease": Key(30, 1, 43_200), "wait": Key(2, 1, 20)}
FLAGS = dict.fromkeys(("fifo", "SqsManagedSseEnabled"), Key(False))
NUMBERS = ("MessageRetentionPeriod", "MaximumMessageSize", "KmsDataKeyReusePeriodSeconds")
TEXTS = ("KmsMasterKeyId", "DeduplicationScope", "FifoThroughputLimit")
OPTIONS = FLAGS | dict.fromkeys(NUMBERS, Key(1, 1)) | dict.fromkeys(TEXTS, Key(""))
# SQS accepts the characters of XML 1.0; \r is left out because XML readers change it, a leading space because
# for SNS a message of nothing but spaces is empty, \ufffd because it replaces what is not UTF-8
PLAIN = re.compile("(?=\\S)[\t\n\x20-\ud7ff\ue000-\ufffc\U00010000-\U0010ffff]+")
BASE64 = "mqasync-base64"  # the attribute with the envelope, where the body could not be text; else "mqasync"
COUNTS = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
BUSY = "(5 (429 Throttl RequestLimit TooMany OverLimit RequestTimeout Internal Unavailable DeletedRecently"
NOBODY = "CredentialsError ProfileNotFound ConfigParse ConfigNotFound TokenRetrieval SSO Login MissingDep"
IN_MEMORY = "not AWS: such servers keep messages in memory, and lose them in a restart unless configured otherwise"


class SQSTransport:
    """The clients of SNS and SQS of one user."""

    features = Features(counts_returns=True, max_bytes=143_360, batch_bytes=2**16)
    errors = (
        (NoSuchQueue, ("QueueDoesNotExist", "NonExistentQueue", "(NotFound")),
        (BrokerBusy, BUSY.split()),
        (BrokerRefused, NOBODY.split(), "the environment has no usable AWS credentials"),
        (BrokerRefused, (aws.ClientError, aws.ValidationError, aws.ParamValidationError, "EndpointProvider")),
    )
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options."""
        address = parse(url, form="sqs://REGION", port=443, keys=URL_KEYS)
        self._region, self._settings = address.hosts[0][0], address.settings
        if address.user or not re.fullmatch(r"(https?://[^@?#\s]+)?", self._settings["endpoint"]):
            raise ConfigurationError("endpoint takes http://host:port; credentials come from the AWS environment")
        if not re.fullmatch("[a-z0-9-]+", self._region) or address.path:
            raise ConfigurationError(f"{self._region + address.path!r} is not an AWS region such as eu-central-1")
        self._options = check_options(options, OPTIONS, "SQS", ["queue"])
        self.features = replace(self.features, batch=10, max_delay=900, longest_wait=self._settings["wait"])
        self._stack = AsyncExitStack()
        self._topics: dict[str, str] = {}  # ARN by exchange

    async def open(self) -> None:
        """Create the clients, and check that the server answers and accepts the credentials."""
        config = AioConfig(retries={"total_max_attempts": 1}, max_pool_connections=1_000)  # the core repeats
        where = {"region_name": self._region, "endpoint_url": self._settings["endpoint"] or None}
        session, enter = get_session(), self._stack.enter_async_context
        self._sns: Any = await enter(session.create_client("sns", config=config, **where))
        self._sqs: Any = await enter(session.create_client("sqs", config=config, **where))
        await self.ping()
        self.warning = "" if ".amazonaws.com" in (where["endpoint_url"] or ".amazonaws.com") else IN_MEMORY

    async def ping(self) -> None:
        """Any request will do; a user who may not list queues gets an answer all the same."""
        try:
            await self._sqs.list_queues(MaxResults=1)
        except aws.ClientError as error:
            if "AccessDenied" not in str(error):
                raise

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Create topic and queue, and subscribe it, unless config.yml names an existing queue.

        Raises BrokerRefused for a queue with other attributes.
        """
        if theirs := existing(self._options, exchange, id):
            try:
                await self._sqs.get_queue_attributes(QueueUrl=await self._url(exchange, id))
                return
            except self._sqs.exceptions.QueueDoesNotExist:
                raise missing(f"queue {theirs!r}") from None
        topic, name = await self._topic(exchange), self._name(exchange, id)
        arn = f"{topic.rpartition(':')[0].replace(':sns:', ':sqs:')}:{name}"
        options = self._options.get(exchange, {}).items()
        given = {key: json.dumps(value).strip('"') for key, value in options if key not in ("fifo", "queues")}
        try:
            url = await self._url(exchange, id)
        except self._sqs.exceptions.QueueDoesNotExist:
            made = {"MessageRetentionPeriod": "1209600", **given}
            made |= {"FifoQueue": "true"} if name.endswith(".fifo") else {}
            made |= policy("{}", arn, topic) if bound else {}  # a later one takes a minute
            url = (await self._sqs.create_queue(QueueName=name, Attributes=made))["QueueUrl"]
        found = (await self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))["Attributes"]
        check_same(f"the queue {name}", found, given)
        if bound and topic not in (had := found.get("Policy", "{}")):  # another process has created the queue
            await self._sqs.set_queue_attributes(QueueUrl=url, Attributes=policy(had, arn, topic))
        if bound:
            raw = {"RawMessageDelivery": "true"}
            await self._sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=raw)

    def _name(self, exchange: str, id: str = "") -> str:
        """The name of a queue, or of a topic. AWS accepts letters, digits, - and _; for a queue up to 80."""
        suffix = ".fifo" if self._options.get(exchange, {}).get("fifo") else ""
        name = (f"{exchange}.{id}" if id else exchange).replace("_", "__").replace(".", "_-")
        return (hashed(name) if id and len(name + suffix) > 80 else name) + suffix

    async def _topic(self, exchange: str) -> str:
        """The ARN of the topic, which is created if it does not exist."""
        name = self._name(exchange)
        made = {"FifoTopic": "true"} if name.endswith(".fifo") else {}
        self._topics[exchange] = (await self._sns.create_topic(Name=name, Attributes=made))["TopicArn"]
        return self._topics[exchange]

    async def _url(self, exchange: str, id: str) -> str:
        name = existing(self._options, exchange, id) or self._name(exchange, id)
        return name if "://" in name else str((await self._sqs.get_queue_url(QueueName=name))["QueueUrl"])

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Publish to the topic, which declare or bound has found."""
        topic = self._topics[exchange]
        entries = [entry(n, "Message", one, topic, one.id) for n, one in enumerate(messages)]
        check(await self._sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=entries), len(entries))

    async def bound(self, exchange: str) -> bool:
        """Whether any subscription is in effect; others are "PendingConfirmation" or "Deleted"."""
        subscriptions = await self._subscriptions(await self._topic(exchange))
        return any(one["SubscriptionArn"].startswith("arn:") for one in subscriptions)

    async def _subscriptions(self, topic: str) -> list[dict[str, str]]:
        pages = self._sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
        return list((await pages.build_full_result()).get("Subscriptions", ()))

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Send to the queue. FIFO queues have no delay for a single message: a header says until when to hide it."""
        url, more = await self._url(exchange, id), {"DelaySeconds": math.ceil(delay)}
        if url.endswith(".fifo"):
            due, more = {DUE: f"{time.time() + delay:.3f}"}, {}
            messages = [replace(one, headers=one.headers | due) for one in messages] if delay else messages
        entries = [entry(n, "MessageBody", one, url, new_id()) | more for n, one in enumerate(messages)]
        check(await self._sqs.send_message_batch(QueueUrl=url, Entries=entries), len(entries))

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> SQSSubscription:
        """Prepare to receive."""
        return SQSSubscription(self._sqs, exchange, await self._url(exchange, id), self._settings["lease"])

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count all messages, also those in flight: those of a dead process will be redelivered."""
        url = await self._url(exchange, id)
        told = (await self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=COUNTS))["Attributes"]
        available, held, delayed = (int(told.get(name, 0)) for name in COUNTS)
        return QueueStats(available + held, delayed)

    async def queues(self) -> list[tuple[str, str]] | None:
        """The queues whose names can be read."""
        pages = self._sqs.get_paginator("list_queues").paginate(PaginationConfig={"PageSize": 1000})
        names = {url.rpartition("/")[2] for url in (await pages.build_full_result()).get("QueueUrls", ())}
        read = {name.removesuffix(".fifo").replace("__", " ").replace("_-", ".") for name in names}
        queues = [named(name.replace(" ", "_")) for name in read]
        return [queue for queue in queues if queue and self._name(*queue) in names]

    async def delete(self, exchange: str, id: str) -> None:
        """End its subscription, then delete it."""
        url, topic = await self._url(exchange, id), await self._topic(exchange)
        for one in await self._subscriptions(topic):
            if one["Endpoint"].endswith(f":{self._name(exchange, id)}"):
                await self._sns.unsubscribe(SubscriptionArn=one["SubscriptionArn"])
        await self._sqs.delete_queue(QueueUrl=url)

    async def close(self) -> None:
        """Close the clients; what they receive now is redelivered when its lease ends."""
        await self._stack.aclose()


class SQSSubscription:
    """One consumer of the queue at a URL; the tag of a delivery is its receipt handle."""

    def __init__(self, sqs: Any, exchange: str, url: str, lease: int) -> None:
        self.lease: float | None = lease
        self._sqs, self._exchange, self._url = sqs, exchange, url
        names = {"AttributeNames": ["All"], "MessageAttributeNames": ["All"]}
        self._asked: dict[str, Any] = {"QueueUrl": url, "VisibilityTimeout": lease, **names}

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """One request that waits; if it returns a full batch, several concurrent ones that do not wait."""
        found = await self._receive(limit, math.floor(timeout + 0.6))  # SQS waits whole seconds
        if len(found) == 10:
            more = [self._receive(limit - have, 0) for have in range(10, min(limit, 80), 10)]
            for some in await asyncio.gather(*more, return_exceptions=True):
                found += some if isinstance(some, list) else ()  # else the next receive raises the error
        return found

    async def _receive(self, limit: int, wait: int) -> list[Delivery]:
        asked = {"MaxNumberOfMessages": min(limit, 10), "WaitTimeSeconds": wait, **self._asked}
        return [self._delivery(one) for one in (await self._sqs.receive_message(**asked)).get("Messages", ())]

    def _delivery(self, one: Mapping[str, Any]) -> Delivery:
        """A foreign message is taken as it is, its text attributes as headers."""
        told, attributes = one["Attributes"], one.get("MessageAttributes", {})
        texts = {name: value["StringValue"] for name, value in attributes.items() if "StringValue" in value}
        envelope, body = texts.get(BASE64, texts.get("mqasync")), one["Body"].encode(errors="replace")
        if BASE64 in texts:
            with suppress(ValueError):
                body = base64.b64decode(body)
        sent, count = int(told["SentTimestamp"]) / 1000, int(told["ApproximateReceiveCount"])
        message, why = unpack(self._exchange, envelope, body, one["MessageId"], sent)
        if envelope is None:
            message = replace(message, headers=texts, key=told.get("MessageGroupId"))
        return Delivery(message, tag=one["ReceiptHandle"], returned=count - 1, unreadable=why)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Delete them."""
        await self._sqs.delete_message_batch(QueueUrl=self._url, Entries=receipts(deliveries))

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Stop hiding them."""
        await self.postpone(deliveries, 0.0)

    async def postpone(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Hide them for `delay` seconds from now; SQS allows 12 hours from when they were received."""
        entries = receipts(deliveries, VisibilityTimeout=math.ceil(min(delay, 43_000.0)))
        await self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Hide them for another lease."""
        await self.postpone(deliveries, self.lease or 0.0)

    async def close(self) -> None:
        """Nothing to do: without a request SQS sends nothing."""


def entry(n: int, field: str, message: Message, to: str, once: str) -> dict[str, Any]:
    """The entry of a request for the n-th message; a FIFO queue accepts each `once` only once."""
    text, attribute = message.body.decode(errors="replace"), "mqasync"
    if not PLAIN.fullmatch(text):
        text, attribute = base64.b64encode(message.body).decode() or "-", BASE64  # SQS accepts no empty body
    envelope = pack(message).decode().replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
    if (size := len(text.encode()) + len(envelope.encode()) + 32) > 2**18:
        raise MessageTooLarge(f"a message of {size:,} bytes; {2**18:,} are allowed with the headers")
    attributes = {attribute: {"DataType": "String", "StringValue": envelope}}
    made: dict[str, Any] = {"Id": str(n), field: text, "MessageAttributes": attributes}
    if to.endswith(".fifo"):
        made |= {"MessageGroupId": hashed(message.key or message.id), "MessageDeduplicationId": hashed(once)}
    return made


def hashed(name: str) -> str:
    """A name that AWS accepts, for any `name`."""
    return hashlib.sha256(name.encode()).hexdigest()


def check(answer: Mapping[str, Any], sent: int) -> None:
    """Raise unless all messages of a request were accepted; moto leaves some out of both lists."""
    if (taken := len(answer.get("Successful", ()))) < sent:
        whose = {one.get("Code"): one.get("SenderFault") for one in answer.get("Failed", ())}
        kind = BrokerRefused if True in whose.values() else BrokerBusy
        raise kind(f"AWS accepted {taken} of {sent} messages: {', '.join(whose) or 'it does not say why'}")


def receipts(deliveries: Sequence[Delivery], **more: Any) -> list[dict[str, Any]]:
    """The entries of a request that settles."""
    return [{"Id": str(n), "ReceiptHandle": one.tag, **more} for n, one in enumerate(deliveries)]


def policy(given: str, queue: str, topic: str) -> dict[str, str]:
    """The policy of a queue with one statement more: this topic may send."""
    whole = {"Version": "2012-10-17", "Statement": [], **json.loads(given)}
    others = whole["Statement"] if isinstance(whole["Statement"], list) else [whole["Statement"]]
    may = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage"}
    from_topic = {"Resource": queue, "Condition": {"ArnEquals": {"aws:SourceArn": topic}}}
    return {"Policy": json.dumps(whole | {"Statement": [*others, may | from_topic]})}
