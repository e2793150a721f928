"""Request and reply: what a handler returns or raises comes back to who asked, over every broker."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mqasync import ConfigurationError, Consumer, Message, Out, Reject, Requester, RequestFailed, Unroutable, consumer
from mqasync.config.settings import Settings
from mqasync.handlers.reply import REPLIES, REPLY_TO
from mqasync.message import new_id
from mqasync.service.discovery import Service
from mqasync.service.runner import Runner
from mqasync.transport import DEAD

from .conftest import url_of
from .waiting import depth, until

# SQLite and Kafka take the temporary queues of the core, as Redis, PostgreSQL and SQS do; the others have their own
TEMPORARY = ["sqlite", "rabbitmq", "nats", "kafka", "activemq"]


class Question(msgspec.Struct):
    n: int


@pytest.fixture
def exchange() -> str:
    return f"ask-{new_id()}"


@pytest.fixture(params=["memory", *TEMPORARY])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, request, tmp_path)


@pytest.fixture
def url() -> str:
    return f"memory:{new_id()}"


def running(url: str, *consumers: Consumer) -> Runner:
    return Runner([Service("test", list(consumers), [], None)], Settings(brokers={"main": url}), grace=1.0)


def doubling(exchange: str, **options: Any) -> Consumer:
    @consumer(exchange=exchange, id="double", **options)
    async def double(question: Question) -> dict[str, int]:
        if question.n < 0:
            raise ValueError(f"{question.n} is negative")
        return {"n": 2 * question.n}

    return double


async def test_what_the_handler_returns_comes_back_and_what_it_raises_is_raised(any_url: str, exchange: str) -> None:
    async with running(any_url, doubling(exchange)) as runner, Requester(broker=any_url) as request:
        answers = await asyncio.gather(*(request(exchange, {"n": n}, timeout=30) for n in range(20)))
        assert answers == [{"n": 2 * n} for n in range(20)]
        with pytest.raises(RequestFailed, match="double: ValueError: -1 is negative"):
            await request(exchange, {"n": -1}, timeout=30)
        with pytest.raises(RequestFailed, match="double: InvalidMessage"):
            await request(exchange, {"m": 1}, to="double", timeout=30)
        with pytest.raises(Unroutable, match=r"has no queue with the id 'nobody'"):
            await request(exchange, {"n": 1}, to="nobody", timeout=30)
        counts = runner.channels[0].counts
        await until(lambda: counts.failed == 2, "both failures are counted")
        assert (counts.retried, counts.dead_lettered) == (0, 0), "who asked knows, and decides"


async def test_a_generator_replies_with_a_list_and_only_its_outputs_are_published(url: str, exchange: str) -> None:
    seen: list[Any] = []

    @consumer(exchange=exchange, id="split", to="words")
    async def split(body: dict[str, str]) -> AsyncIterator[Any]:
        for word in body["text"].split():
            yield Out({"word": word}, key=word)

    @consumer(exchange="words", id="collect")
    async def collect(body: dict[str, str]) -> None:
        seen.append(body["word"])

    async with running(url, split, collect), Requester(broker=url) as request:
        assert await request(exchange, {"text": "a b"}) == [{"word": "a"}, {"word": "b"}]
        await until(lambda: sorted(seen) == ["a", "b"], "they are published as well")


async def test_a_handler_may_ask_another_one_by_what_lifespan_yields(url: str, exchange: str) -> None:
    async with running(url, doubling(exchange)), Requester(broker=url) as request:

        @consumer(exchange=f"{exchange}.outer", id="outer")
        async def outer(body: dict[str, int]) -> int:
            answer = await request(exchange, {"n": body["n"]})
            return int(answer["n"]) + 1

        async with running(url, outer):
            assert await request(f"{exchange}.outer", {"n": 3}) == 7


async def test_nobody_who_answers_is_a_timeout_and_a_late_answer_harms_nobody(url: str, exchange: str) -> None:
    go_on = asyncio.Event()

    @consumer(exchange=exchange, id="slow")
    async def slow(body: dict[str, int]) -> int:
        await go_on.wait()
        return body["n"]

    async with running(url, slow), Requester(broker=url) as request:
        with pytest.raises(TimeoutError, match=rf"no reply from {exchange} within 0\.1 s"):
            await request(exchange, {"n": 1}, timeout=0.1)
        go_on.set()
        assert await request(exchange, {"n": 2}) == 2
        with pytest.raises(Unroutable):
            await request(f"{exchange}.nobody", {})


@pytest.mark.parametrize("reply_to", ["gone", "not/a name"])
async def test_a_failure_that_nobody_waits_for_is_dead_lettered(url: str, exchange: str, reply_to: str) -> None:
    @consumer(exchange=exchange, id="q", retries=0)
    async def fail(body: dict[str, int]) -> None:
        raise Reject("no")

    async with running(url, fail) as runner:
        message = Message(body=b"{}", exchange=exchange, headers={REPLY_TO: reply_to})
        await runner.brokers.publish(message)
        await until(lambda: runner.channels[0].counts.dead_lettered == 1, "it is dead-lettered")
        transport = await runner.brokers.route(exchange).connected()
        assert await depth(transport, exchange, "q" + DEAD) == 1


async def test_the_reply_queue_is_gone_with_its_requester(url: str, exchange: str) -> None:
    async with running(url, doubling(exchange)) as runner:
        transport = await runner.brokers.route(exchange).connected()
        async with Requester(broker=url) as request:
            await request(exchange, {"n": 1})
            assert [name for name, _ in await transport.queues() or () if name == REPLIES]
        assert not [name for name, _ in await transport.queues() or () if name == REPLIES]


async def test_a_lost_reply_queue_is_made_again_and_requests_go_on(url: str, exchange: str) -> None:
    async with running(url, doubling(exchange)) as runner, Requester(broker=url) as request:
        await request(exchange, {"n": 1})
        transport = await runner.brokers.route(exchange).connected()
        ((name, id),) = [queue for queue in await transport.queues() or () if queue[0] == REPLIES]
        await transport.delete(name, id)
        while await transport.stats(name, id) is None:  # noqa: ASYNC110, the broker tells nobody
            await asyncio.sleep(0.01)
        assert await request(exchange, {"n": 2}) == {"n": 4}


async def test_a_requester_that_is_not_open_says_so(exchange: str) -> None:
    with pytest.raises(ConfigurationError, match="async with"):
        await Requester()(exchange, {})


async def test_nothing_hangs_when_the_connection_of_who_asks_is_cut(rabbitmq_url: str, exchange: str) -> None:
    go_on = asyncio.Event()

    @consumer(exchange=exchange, id="slow", concurrency=20)
    async def slow(question: Question) -> int:
        await go_on.wait()
        return question.n

    async with running(rabbitmq_url, slow) as runner, Requester(broker=rabbitmq_url) as request:
        # Given ten requests under way
        asking = [asyncio.create_task(request(exchange, {"n": n}, timeout=15)) for n in range(10)]
        await until(lambda: runner.channels[0].held == 10, "all are being handled")
        # When the connections of the one who asks end
        assert request._brokers
        transport: Any = await request._brokers.route(exchange).connected()
        for connection in transport._transport._connections:
            await connection.close(ConnectionError("cut"))
        go_on.set()
        # Then every request ends, with an answer or in time without, and further ones are answered
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(value, int | TimeoutError) for value in ended), ended
        assert await request(exchange, {"n": 77}, timeout=15) == 77
