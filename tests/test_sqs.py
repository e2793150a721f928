"""The sqs transport keeps the contract, on moto; and what SNS and SQS alone have."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import ClientError
from msgspec.structs import replace

from mqasync import BrokerLost, BrokerRefused, Message, Unroutable, consumer
from mqasync.brokers.broker import Brokers
from mqasync.brokers.calls import translated
from mqasync.brokers.connection import Connection, load
from mqasync.brokers.inbox import Inbox
from mqasync.config.settings import QueueSettings, Settings
from mqasync.errors import BrokerBusy, MessageTooLarge
from mqasync.transport import DEAD, Features, QueueStats
from mqasync.transports.sqs import SQSTransport, check

from .conformance import Conformance, message, numbers, receive, retry
from .conftest import Connect
from .servers.sqs import Moto
from .waiting import PATIENCE, depth
from .working import dead_letters, working


class TestSQS(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=140 * 1024)

    @pytest.fixture
    def url(self, sqs_server: Moto, aws: None) -> str:
        return sqs_server.url.replace("lease=3", "lease=2")

    async def test_queues_that_are_not_ours_are_not_listed(
        self, transport: Connection, exchange: str, strangers: tuple[Any, Any]
    ) -> None:
        await transport.declare(exchange, "q")
        await transport.declare(exchange, "x" * 80)  # its name is cut
        _, sqs = strangers
        for name in (exchange, f"{exchange}-q", f"{exchange}_-q.fifo"):
            fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
            await sqs.create_queue(QueueName=name, Attributes=fifo)
        assert [queue for queue in await transport.queues() or [] if exchange in queue[0]] == [(exchange, "q")]


@pytest.fixture
async def transport(sqs_server: Moto, aws: None, connect: Connect, exchange: str) -> Connection:
    """With a lease longer than any test: what comes back earlier was given back. `exchange` is FIFO by its name."""
    return await connect(sqs_server.url.replace("lease=3", "lease=300"), {exchange + ".fifo": {"fifo": True}})


@pytest.fixture
async def strangers(sqs_server: Moto, aws: None) -> AsyncIterator[tuple[Any, Any]]:
    """Clients for SNS and SQS that know nothing of mqasync."""
    where = {"region_name": "eu-central-1", "endpoint_url": sqs_server.endpoint}
    async with get_session().create_client("sns", **where) as sns, get_session().create_client("sqs", **where) as sqs:
        yield sns, sqs


async def test_a_queue_that_exists_with_another_attribute_is_refused(
    sqs_server: Moto, transport: Connection, exchange: str, connect: Connect
) -> None:
    await transport.declare(exchange, "q")
    other = await connect(sqs_server.url, {exchange: {"MessageRetentionPeriod": 60}})
    with pytest.raises(BrokerRefused, match=r"MessageRetentionPeriod '1209600' instead of '60'"):
        await other.declare(exchange, "q")
    for _ in range(2):
        await other.declare(exchange, "new")


S3_EVENT = b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": "feed.csv"}}}]}'


@pytest.mark.parametrize("by", ["name", "URL"])
async def test_a_queue_that_exists_is_consumed_as_it_is_and_retries_stay_in_it(
    sqs_server: Moto, strangers: tuple[Any, Any], exchange: str, aws: None, by: str
) -> None:
    # Given a queue of somebody else's, with what S3 writes into it
    _, sqs = strangers
    name = f"S3-events-{exchange[:20]}"
    url = (await sqs.create_queue(QueueName=name))["QueueUrl"]
    await sqs.send_message(QueueUrl=url, MessageBody=S3_EVENT.decode())
    queues = {f"{exchange}/q": QueueSettings(queue=name if by == "name" else url)}
    brokers = Brokers(Settings(brokers={"main": sqs_server.url}, queues=queues))
    attempts: list[tuple[str, int]] = []

    @consumer(exchange=exchange, id="q", backoff=0.01, retries=1)
    async def handler(event: dict[str, Any], message: Message) -> None:
        attempts.append((event["Records"][0]["s3"]["object"]["key"], message.attempt))
        raise ValueError("not yet")

    async with working(brokers, handler):
        (dead,) = await dead_letters(brokers, exchange, "q", 1)
        with pytest.raises(Unroutable):
            await brokers.publish(Message(body=b"{}", exchange=exchange))
    await brokers.close()
    # Then it is retried there, and dead-lettered in a queue of our own
    assert attempts == [("feed.csv", 1), ("feed.csv", 2)]
    assert dead.body == S3_EVENT


async def test_a_queue_that_is_to_exist_and_does_not_is_one_sentence(
    sqs_server: Moto, connect: Connect, aws: None
) -> None:
    transport = await connect(sqs_server.url, {"events": {"queues": {"q": {"queue": "not-there"}}}})
    with pytest.raises(BrokerRefused, match=r"there is no queue 'not-there', and config\.yml says"):
        await transport.declare("events", "q")


# the server


async def test_a_server_other_than_aws_is_warned_of(transport: Connection) -> None:
    assert "keep messages in memory" in transport.warning
    assert load("sqs://eu-central-1").warning == ""


async def test_missing_credentials_are_refused(
    sqs_server: Moto, aws: None, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BrokerRefused, match="has no usable AWS credentials"):
        await connect(sqs_server.url)


async def test_a_queue_that_was_deleted_is_lost_and_can_be_declared_again(
    transport: Connection, strangers: tuple[Any, Any], exchange: str
) -> None:
    await transport.declare(exchange, "q")
    subscription = await transport.subscribe(exchange, "q", 10)
    _, sqs = strangers
    url = (await sqs.get_queue_url(QueueName=f"{exchange}_-q"))["QueueUrl"]
    await sqs.delete_queue(QueueUrl=url)
    with pytest.raises(BrokerLost):
        await subscription.receive(1, 0.0)
    with pytest.raises(BrokerLost):
        await transport.send(exchange, "q", [message(1)])
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(2)])
    assert numbers(await receive(subscription, 1)) == [2]


async def test_publishing_to_a_topic_that_was_deleted_is_unroutable(
    transport: Connection, strangers: tuple[Any, Any], exchange: str
) -> None:
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(1)])
    sns, _ = strangers
    await sns.delete_topic(TopicArn=(await sns.create_topic(Name=exchange))["TopicArn"])
    for _ in range(2):
        with pytest.raises(Unroutable, match=exchange):
            await transport.publish(exchange, [message(2)])


# receiving


async def test_what_arrives_after_a_subscription_was_closed_is_put_back_at_once(
    transport: Connection, exchange: str, queue: Inbox
) -> None:
    receiving = asyncio.create_task(queue.receive(10, PATIENCE))
    await asyncio.sleep(0.1)  # its request waits at the server
    await queue.close()
    assert await receiving == []
    await transport.publish(exchange, [message(1)])
    assert numbers(await receive(await transport.subscribe(exchange, "q", 10), 1)) == [1]


async def test_a_transport_that_is_closed_while_it_receives_keeps_nothing(
    sqs_server: Moto, transport: Connection, exchange: str, connect: Connect
) -> None:
    await transport.declare(exchange, "q")
    other = await connect(sqs_server.url.replace("lease=3", "lease=300"))
    receiving = asyncio.create_task((await other.subscribe(exchange, "q", 10)).receive(10, PATIENCE))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(other.close())
    await asyncio.sleep(0)
    await transport.publish(exchange, [message(1)])
    await closing
    assert await receiving == []
    assert numbers(await receive(await transport.subscribe(exchange, "q", 10), 1)) == [1]


async def test_a_transport_that_is_closed_gives_back_what_it_holds_at_once(
    sqs_server: Moto, transport: Connection, exchange: str, connect: Connect
) -> None:
    await transport.declare(exchange, "q")
    await transport.publish(exchange, [message(n) for n in range(25)])
    other = await connect(sqs_server.url.replace("lease=3", "lease=300"))
    await receive(await other.subscribe(exchange, "q", 100), 25)
    await other.close()
    returned = await receive(await transport.subscribe(exchange, "q", 100), 25)
    assert sorted(numbers(returned)) == list(range(25))
    assert {delivery.returned for delivery in returned} == {1}


async def test_a_receive_that_is_cancelled_all_the_same_loses_nothing(
    transport: Connection, exchange: str, queue: Inbox
) -> None:
    receiving = asyncio.create_task(queue.receive(10, PATIENCE))
    await asyncio.sleep(0.1)
    receiving.cancel()
    with suppress(asyncio.CancelledError):
        await receiving
    await transport.publish(exchange, [message(1)])
    assert numbers(await receive(queue, 1)) == [1]


# FIFO


async def test_a_fifo_exchange_keeps_a_key_together_and_in_order_and_lets_other_keys_pass(
    transport: Connection, exchange: str
) -> None:
    fifo = exchange + ".fifo"
    await transport.declare(fifo, "q")
    sent = [Message(body=b"%d" % n, exchange=fifo, key=("a", "ß b")[n % 2]) for n in range(24)]
    await transport.publish(fifo, sent)
    one, two = [await transport.subscribe(fifo, "q", 100) for _ in range(2)]
    # Given that one consumer holds the first of a key
    (first,) = await one.receive(1, 5.0)
    assert (first.message.key, numbers([first])) == ("a", [0])
    # Then another one gets the other key alone, in order, as many as one request takes
    for expected in (range(1, 20, 2), range(21, 24, 2)):
        others = await receive(two, len(expected))
        assert numbers(others) == list(expected)
        await two.ack(others)
    # And the rest of the key when that one is settled
    await one.ack([first])
    assert numbers(await receive(two, 10)) == list(range(2, 22, 2))


async def test_a_fifo_queue_takes_a_repeated_publish_once_and_a_replayed_dead_letter_again(
    transport: Connection, exchange: str
) -> None:
    fifo = exchange + ".fifo"
    await transport.declare(fifo, "q")
    await transport.declare(fifo, "q" + DEAD, bound=False)
    subscription = await transport.subscribe(fifo, "q", 10)
    one = Message(body=b"1", exchange=fifo, key="k")
    await transport.publish(fifo, [one])
    await transport.publish(fifo, [one])
    held = await receive(subscription, 1)
    await transport.send(fifo, "q" + DEAD, [one])
    assert numbers(await receive(await transport.subscribe(fifo, "q" + DEAD, 10), 1)) == [1]
    await transport.send(fifo, "q", [one])
    await subscription.ack(held)
    assert numbers(await receive(subscription, 1)) == [1]


async def test_a_fifo_queue_is_counted_listed_and_deleted_like_any_other(transport: Connection, exchange: str) -> None:
    fifo = exchange + ".fifo"
    for id in ("q", "other"):
        await transport.declare(fifo, id)
    await transport.publish(fifo, [Message(body=b"1", exchange=fifo, key="k")])
    assert await transport.stats(fifo, "q") == QueueStats(1)
    assert sorted(queue for queue in await transport.queues() or [] if queue[0] == fifo) == [
        (fifo, "other"),
        (fifo, "q"),
    ]
    await transport.delete(fifo, "q")
    assert await transport.stats(fifo, "q") is None
    await transport.delete(fifo, "other")
    with pytest.raises(Unroutable):
        await transport.publish(fifo, [Message(body=b"2", exchange=fifo, key="k")])


async def test_a_retry_in_a_fifo_queue_waits_its_delay(transport: Connection, exchange: str) -> None:
    fifo = exchange + ".fifo"
    await transport.declare(fifo, "q")
    subscription = await transport.subscribe(fifo, "q", 10)
    await transport.publish(fifo, [Message(body=b"1", exchange=fifo, key="k")])
    (delivery,) = await receive(subscription, 1)
    started = time.monotonic()
    await retry(subscription, delivery, 1.0)
    (again,) = await receive(subscription, 1)
    assert 1.0 <= time.monotonic() - started <= 10
    assert again.message == replace(delivery.message, attempt=2)


# what strangers send


async def test_what_a_stranger_publishes_or_sends_is_taken_as_it_is(
    strangers: tuple[Any, Any], exchange: str, queue: Inbox
) -> None:
    sns, sqs = strangers
    kind = {"kind": {"DataType": "String", "StringValue": "x"}}
    binary = {"b": {"DataType": "Binary", "BinaryValue": b"1"}}
    topic = (await sns.create_topic(Name=exchange))["TopicArn"]
    url = (await sqs.get_queue_url(QueueName=f"{exchange}_-q"))["QueueUrl"]
    await sns.publish(TopicArn=topic, Message='{"n": "ä"}', MessageAttributes=kind)
    await sqs.send_message(QueueUrl=url, MessageBody=" 2 ", MessageAttributes=binary)
    first, second = await receive(queue, 2)
    assert first.message.body == '{"n": "ä"}'.encode()
    assert (first.message.headers, first.message.attempt, first.unreadable) == ({"kind": "x"}, 1, "")
    assert abs(first.message.time - time.time()) < 60
    assert (second.message.body, second.message.headers) == (b" 2 ", {})
    assert first.message.id != second.message.id


async def test_what_pretends_to_be_ours_and_is_not_loses_nothing_and_harms_nobody(
    strangers: tuple[Any, Any], exchange: str, queue: Inbox
) -> None:
    _, sqs = strangers
    url = (await sqs.get_queue_url(QueueName=f"{exchange}_-q"))["QueueUrl"]
    forged = [("mqasync", "{", "{}!"), ("mqasync-base64", '["x", 1.0]', "a"), ("mqasync", '["x", 9e99, -7]', "3")]
    for name, envelope, body in forged:
        attributes = {name: {"DataType": "String", "StringValue": envelope}}
        await sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes)
    first, second, third = await receive(queue, 3)
    assert "envelope cannot be read" in first.unreadable
    assert [one.message.body for one in (first, second, third)] == [b"{}!", b"a", b"3"]
    assert (third.message.id, third.message.attempt) == ("x", 1)
    assert abs(third.message.time - time.time()) < 60


# names, sizes, errors


def test_two_names_are_never_written_the_same() -> None:
    parts = ["".join(part) for size in (1, 2, 3) for part in itertools.product("a_.-", repeat=size)]
    plain, fifo = [SQSTransport("sqs://x", {part: {"fifo": fifo} for part in parts}) for fifo in (False, True)]
    assert len({plain._name(part) for part in parts}) == len(parts)
    long = [f"{'x' * 77}{part}" for part in parts if len(part) == 3]
    queues = [(exchange, id) for exchange in [*parts, *long] for id in ("a", "_", "q" + DEAD, "y" * 80)]
    assert len({plain._name(*queue) for queue in queues}) == len(queues)
    assert max(len(one._name(*queue)) for queue in queues for one in (plain, fifo)) <= 80
    assert fifo._name("a.a", "enrich") == "a_-a_-enrich.fifo"


async def test_the_largest_body_with_the_most_headers_fits_in_a_request(
    transport: Connection, exchange: str, queue: Inbox
) -> None:
    headers = {f"h{n}": "v" * 1000 for n in range(65)}
    largest = Message(body=b"\xff" * transport.features.max_bytes, exchange=exchange, headers=headers)
    await transport.publish(exchange, [largest, largest])
    received = await receive(queue, 2)
    assert [one.message for one in received] == [largest, largest]


async def test_a_message_larger_than_a_request_is_refused_before_anything_is_sent(
    transport: Connection, exchange: str
) -> None:
    await transport.declare(exchange, "q")
    large = Message(body=b"\xff" * transport.features.max_bytes, exchange=exchange, headers={"h": "\0" * 60_000})
    with pytest.raises(MessageTooLarge, match="262,144 are allowed with the headers"):
        await transport.publish(exchange, [large])
    assert await depth(transport, exchange, "q") == 0


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ThrottledException", 400, BrokerBusy),
        ("OverLimit", 403, BrokerBusy),
        ("InternalFailure", 500, BrokerBusy),
        ("503", 503, BrokerBusy),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, BrokerLost),
        ("InvalidClientTokenId", 403, BrokerRefused),
        ("SignatureDoesNotMatch", 403, BrokerRefused),
    ],
)
def test_an_answer_of_aws_is_translated_and_no_secret_repeated(code: str, status: int, kind: type[Exception]) -> None:
    text = "It does not match.\n\nThe Canonical String should have been 'x-amz-security-token:hush-hush'"
    answer = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = translated(ClientError(answer, "SendMessage"), SQSTransport.errors)
    assert isinstance(error, kind)
    assert f"({code})" in str(error) and "hush" not in str(error)


def test_a_batch_that_was_not_taken_whole_is_never_a_success() -> None:
    check({"Successful": [{}, {}]}, 2)
    with pytest.raises(BrokerBusy, match="1 of 2"):
        check({"Successful": [{}]}, 2)  # moto leaves some out of both lists
    with pytest.raises(BrokerBusy, match="InternalError"):
        check({"Successful": [{}], "Failed": [{"Code": "InternalError", "SenderFault": False}]}, 2)
    with pytest.raises(BrokerRefused, match="InvalidMessageContents"):
        check({"Successful": [{}], "Failed": [{"Code": "InvalidMessageContents", "SenderFault": True}]}, 2)
