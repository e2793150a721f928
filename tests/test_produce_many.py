"""Producer.produce_many: an iterable of any kind, confirmed as a whole, and what it raises."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import RFC_4122, UUID

import pytest

from mqasync import BrokerLost, ConfigurationError, Message, Out, Producer, Unroutable
from mqasync.brokers.connection import load
from mqasync.message import new_id
from mqasync.transports.memory import MemoryTransport

from .conftest import url_of
from .waiting import depth


async def numbers(count: int) -> AsyncIterator[Any]:
    for n in range(count):
        yield Out({"n": n}, key=str(n % 2), id=f"number-{n}")


@pytest.fixture
def url() -> str:
    return f"memory:{new_id()}"


async def test_iterables_of_either_kind_are_published_and_counted(url: str) -> None:
    transport = load(url)
    await transport.open()
    await transport.declare("in", "q")
    async with Producer(exchange="in", id="me", broker=url) as producer:
        assert await producer.produce_many([1, 2, 3]) == 3
        assert await producer.produce_many({"n": n} for n in range(1000)) == 1000
        assert await producer.produce_many(numbers(1000)) == 1000
        assert await producer.produce_many([]) == 0
    assert await depth(transport, "in", "q") == 2003
    subscription = await transport.subscribe("in", "q", 2003)
    messages = [delivery.message for delivery in await subscription.receive(2003, 1.0)]
    assert [(message.id, message.key) for message in messages[-2:]] == [("number-998", "0"), ("number-999", "1")]
    assert {message.producer for message in messages} == {"me"}
    await transport.close()


async def test_what_nobody_receives_and_what_json_cannot_carry_is_raised(url: str) -> None:
    async with Producer(exchange="in", id="me", broker=url) as producer:
        with pytest.raises(Unroutable):
            await producer.produce_many(range(3))
        with pytest.raises(ConfigurationError, match="object of type object"):
            await producer.produce_many([object()])
    with pytest.raises(ConfigurationError, match="async with"):
        await producer.produce_many([1])


async def test_a_broker_that_does_not_confirm_is_waited_for_no_longer_than_the_timeout(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(self: MemoryTransport, exchange: str, messages: Sequence[Message]) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryTransport, "publish", silent)
    async with Producer(exchange="in", id="me", broker=url) as producer:
        with pytest.raises(BrokerLost, match=r"not confirmed a message within 0\.05 s"):
            await producer.produce_many(range(3), timeout=0.05)


def test_a_new_id_is_a_random_uuid_of_version_4() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    for id in ids:
        assert str(UUID(id)) == id
        assert (UUID(id).version, UUID(id).variant) == (4, RFC_4122)


@pytest.fixture(params=["sqlite", "rabbitmq"])
def real_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, request, tmp_path)


async def test_what_an_exchange_requires_is_there_before_a_program_publishes(real_url: str, tmp_path: Path) -> None:
    url, exchange = real_url, f"in-{new_id()}"
    config = tmp_path / "config.yml"
    config.write_text(
        f"brokers: {{main: '{url}'}}\n"
        f"exchanges: {{{exchange}: {{requires: [one, two]}}, {exchange}-2: {{requires: [q]}}}}\n"
    )
    # Given one of the queues already, and publishes that all come at the same moment
    transport = load(url)
    await transport.open()
    await transport.declare(exchange, "one")
    async with Producer(exchange=exchange, id="me", config=str(config)) as producer:
        await asyncio.gather(*(producer.produce({"n": n}) for n in range(300)))
        await producer.produce_many([Out({"n": 1}, exchange=f"{exchange}-2")])
    assert [await depth(transport, exchange, id) for id in ("one", "two")] == [300, 300]
    assert await depth(transport, f"{exchange}-2", "q") == 1
    await transport.close()
