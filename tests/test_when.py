"""When a message is handled, or not at all: Retry, `max_age`, `rate` and `reject_on`."""

import asyncio
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mqasync import ConfigurationError, Consumer, Message, Reject, Retry, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import Settings
from mqasync.core.dead_letter import revived

from .conftest import url_of
from .test_core import everywhere
from .waiting import PATIENCE, until
from .working import dead_letters, publish, until_depth, working


@pytest.fixture(params=["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What does not depend on the broker is tested on one."""
    return url_of(request.param, request, tmp_path)


@everywhere
async def test_a_retry_comes_back_after_its_time_and_spends_no_attempt(brokers: Brokers, exchange: str) -> None:
    began: list[tuple[float, int]] = []

    @consumer(exchange=exchange, id="q", retries=0)
    async def handler(body: dict[str, Any], message: Message) -> None:
        began.append((time.monotonic(), message.attempt))
        if len(began) < 3:
            raise Retry("300ms", "the API wants a pause")

    async with working(brokers, handler) as (channel,):
        await publish(brokers, exchange, b"{}")
        await until(lambda: len(began) == 3 and not channel.held, "it is handled")
        await until_depth(channel, 0)
    times, attempts = zip(*began, strict=True)
    assert attempts == (1, 1, 1)
    assert all(later - sooner >= 0.25 for sooner, later in pairwise(times))
    assert (channel.counts.failed, channel.counts.retried, channel.counts.dead_lettered) == (0, 2, 0)


async def test_a_batch_is_retried_as_a_whole_and_comes_back_once(brokers: Brokers, exchange: str) -> None:
    batches: list[list[int]] = []

    @consumer(exchange=exchange, id="q", batch_size=3, batch_wait=1.0)
    async def handler(bodies: list[dict[str, int]]) -> None:
        batches.append(sorted(body["n"] for body in bodies))
        if len(batches) == 1:
            raise Retry(0.1)

    async with working(brokers, handler) as (channel,):
        await publish(brokers, exchange, *(b'{"n": %d}' % n for n in range(3)))
        await until(lambda: channel.counts.handled == 3, "all are handled")
    assert batches[0] == [0, 1, 2]
    assert sorted(n for batch in batches[1:] for n in batch) == [0, 1, 2]


async def test_who_asked_gets_the_answer_of_the_run_after_a_retry(brokers: Brokers, exchange: str) -> None:
    answers: list[bytes] = []

    @consumer(exchange=exchange, id="q")
    async def handler(body: dict[str, int]) -> dict[str, int]:
        if not answers:
            answers.append(b"")
            raise Retry(0.1)
        return body

    @consumer(exchange="mqasync.reply", id="me")
    async def asker(body: bytes) -> None:
        answers.append(body)

    async with working(brokers, handler, asker):
        await publish(brokers, exchange, b'{"n":1}', headers={"reply-to": "me"})
        await until(lambda: len(answers) == 2, "the answer is there")
    assert answers[1] == b'{"n":1}'


@pytest.mark.parametrize("delay", ["soon", -1, None])
async def test_a_retry_after_what_is_no_duration_is_a_failed_attempt(
    brokers: Brokers, exchange: str, delay: Any
) -> None:
    @consumer(exchange=exchange, id="q", retries=0)
    async def handler(body: dict[str, Any]) -> None:
        raise Retry(delay)

    async with working(brokers, handler) as (channel,):
        await publish(brokers, exchange, b"{}")
        (dead,) = await dead_letters(brokers, exchange, "q", 1)
    assert dead.headers["dead-reason"] == "ConfigurationError"
    assert repr(delay) in dead.headers["dead-message"]
    assert channel.counts.retried == 0


async def test_a_retry_that_goes_on_ends_with_max_age(brokers: Brokers, exchange: str) -> None:
    @consumer(exchange=exchange, id="q", max_age="1s")
    async def handler(body: dict[str, Any]) -> None:
        raise Retry(0.2)

    async with working(brokers, handler) as (channel,):
        await publish(brokers, exchange, b"{}")
        (dead,) = await dead_letters(brokers, exchange, "q", 1)
    assert dead.headers["dead-reason"] == "expired"
    assert channel.counts.retried >= 1


async def test_what_is_older_than_max_age_is_not_handled_and_the_rest_of_its_batch_stays_one(
    brokers: Brokers, exchange: str
) -> None:
    batches: list[list[int]] = []

    @consumer(exchange=exchange, id="q", max_age="10m", batch_size=4, batch_wait=1.0)
    async def handler(bodies: list[dict[str, int]]) -> None:
        batches.append([body["n"] for body in bodies])

    async with working(brokers, handler) as (channel,):
        old = Message(body=b'{"n": 0}', exchange=exchange, time=time.time() - 601)
        messages = [old, *(Message(body=b'{"n": %d}' % n, exchange=exchange) for n in (1, 2, 3))]
        await asyncio.gather(*map(brokers.publish, messages))
        (dead,) = await dead_letters(brokers, exchange, "q", 1)
        await until(lambda: channel.counts.handled == 3, "the others are handled")
    assert batches == [[1, 2, 3]]
    assert (dead.body, dead.headers["dead-reason"]) == (b'{"n": 0}', "expired")
    assert "601 s ago; max_age is 600 s" in dead.headers["dead-message"]
    assert channel.counts.expired == channel.counts.dead_lettered == 1
    # When it is replayed, then it is as young as the others
    assert time.time() - revived(dead).time < PATIENCE


async def test_no_more_handlers_begin_than_the_rate_says(brokers: Brokers, exchange: str) -> None:
    began: list[float] = []

    @consumer(exchange=exchange, id="q", rate="2/s")
    async def handler(body: dict[str, Any]) -> None:
        began.append(time.monotonic())
        if len(began) == 1:
            raise ValueError("an attempt that fails has begun as well")

    async with working(brokers, handler) as (channel,):
        await publish(brokers, exchange, b"{}", b"{}", b"{}")
        await until(lambda: channel.counts.handled == 3, "all are handled")
    assert len(began) == 4
    assert all(later - sooner >= 0.99 for sooner, later in zip(began, began[2:], strict=False))


async def test_what_reject_on_names_is_dead_lettered_at_once_in_a_group_too(exchange: str, url: str) -> None:
    # Given the option in config.yml, and the class one that the named one is the base of
    settings = Settings(brokers={"main": url}, consumers={f"{exchange}/q": {"reject_on": ["LookupError"]}})

    @consumer(exchange=exchange, id="q", backoff=0.01, retries=1)
    async def handler(body: dict[str, str]) -> None:
        match body["fault"]:
            case "named":
                raise KeyError("named")
            case "group":
                raise ExceptionGroup("both", [IndexError("one"), KeyError("two")])
            case "mixed":
                raise ExceptionGroup("one of them", [IndexError("one"), OSError("two")])
        raise Reject("as ever")

    brokers = Brokers(settings)
    async with working(brokers, settings.configured(handler)):
        faults = ("named", "group", "mixed", "rejected")
        await publish(brokers, exchange, *(b'{"fault": "%s"}' % fault.encode() for fault in faults))
        dead = await dead_letters(brokers, exchange, "q", 4)
    await brokers.close()
    attempts = {message.body: message.headers["dead-attempts"] for message in dead}
    assert [attempts[b'{"fault": "%s"}' % fault.encode()] for fault in faults] == ["1", "1", "2", "1"]
    reasons = Counter(message.headers["dead-reason"] for message in dead)
    assert reasons == {"KeyError": 1, "ExceptionGroup": 2, "rejected": 1}


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("max_age", "0s", "max_age is '0s'; it takes a duration of more than 0"),
        ("max_age", "old", "'old' is not a duration"),
        ("rate", "4", "'4' is not a rate: write a number per s, m, h or d, such as 4/m"),
        ("rate", "0/s", "'0/s' is not a rate"),
        ("rate", 4, "4 is not a rate"),
        ("reject_on", ["ValueEror"], "reject_on names 'ValueEror', which cannot be found"),
        ("reject_on", "nowhere.Error", "reject_on names 'nowhere.Error', which cannot be found"),
        ("reject_on", ["json.loads"], "it takes classes of exceptions, or their names"),
        ("reject_on", [KeyboardInterrupt], "it takes classes of exceptions, or their names"),
        ("reject_on", 7, "reject_on is 7; it takes classes of exceptions, or their names"),
    ],
)
def test_a_wrong_option_is_quoted_with_what_it_takes(option: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Consumer(exchange="in", id="q", **{option: value})
    assert said in str(raised.value)


def test_reject_on_takes_classes_and_their_names() -> None:
    given: list[Any] = [ValueError, "KeyError", "json.JSONDecodeError"]
    reject_on = Consumer(exchange="in", id="q", reject_on=given).options.reject_on
    assert [kind.__name__ for kind in reject_on] == ["ValueError", "KeyError", "JSONDecodeError"]
    assert Consumer(exchange="in", id="q", reject_on=OSError).options.reject_on == (OSError,)
