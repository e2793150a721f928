"""What the core promises over every transport: the life of a message, from handler to acknowledgement."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mqasync import (
    BrokerLost,
    ConfigurationError,
    Consumer,
    Message,
    MessageTooLarge,
    Out,
    Producer,
    Reject,
    Unroutable,
    consumer,
)
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import ExchangeSettings, Settings
from mqasync.core.channel import Channel
from mqasync.handlers.outbox import UNCONFIRMED
from mqasync.handlers.step import Step
from mqasync.message import new_id
from mqasync.transport import Delivery
from mqasync.transports.memory import MemorySubscription

from .conftest import url_of
from .waiting import PATIENCE, until
from .working import dead_letters, publish, until_depth, working

everywhere = pytest.mark.parametrize(
    "url", ["memory", "sqlite", "rabbitmq", "redis", "kafka", "sqs", "activemq", "nats", "postgres"], indirect=True
)


@pytest.fixture(params=["sqlite", "rabbitmq"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Two brokers that could not be less alike; what depends on the broker itself is tested `everywhere`."""
    return url_of(request.param, request, tmp_path)


async def test_a_message_is_acknowledged_only_after_its_outputs_are_confirmed(brokers: Brokers, exchange: str) -> None:
    confirmed = asyncio.Event()
    handled = asyncio.Event()

    @consumer(exchange=exchange, id="q", to="anywhere")
    async def handler(body: dict[str, int]) -> dict[str, int]:
        handled.set()
        return body

    async def slow_publish(message: Message) -> None:
        await confirmed.wait()

    # Given a step whose output the broker has not confirmed yet
    async with working(brokers, handler, publish=slow_publish) as (channel,):
        await publish(brokers, exchange, b"{}")
        await asyncio.wait_for(handled.wait(), PATIENCE)
        # Then the input is still in hand
        await asyncio.sleep(0.05)
        assert channel.held == 1
        # When it is confirmed, then the input is acknowledged
        confirmed.set()
        await until(lambda: channel.held == 0, "the input is settled")
    await until_depth(channel, 0)


@everywhere
async def test_a_failed_message_comes_back_to_its_own_id_alone_and_is_dead_lettered_intact_after_its_retries(
    brokers: Brokers, exchange: str
) -> None:
    attempts: dict[str, list[int]] = {"failing": [], "other": []}

    @consumer(exchange=exchange, id="failing", retries=2, backoff=0.05)
    async def failing(body: dict[str, Any], message: Message) -> None:
        attempts["failing"].append(message.attempt)
        raise ValueError("no such \udcff thing")

    @consumer(exchange=exchange, id="other")
    async def other(body: dict[str, Any], message: Message) -> None:
        attempts["other"].append(message.attempt)

    async with working(brokers, failing, other) as (channel, _):
        await publish(brokers, exchange, b'{"n": 1}', id="m1", headers={"own": "kept"}, producer="p")
        await until(lambda: channel.counts.dead_lettered == 1 and bool(attempts["other"]), "it is dead-lettered")
        (dead,) = await dead_letters(brokers, exchange, "failing", 1)
    assert attempts == {"failing": [1, 2, 3], "other": [1]}
    assert (dead.id, dead.body, dead.producer, dead.headers["own"]) == ("m1", b'{"n": 1}', "p", "kept")
    assert dead.headers["dead-reason"] == "ValueError"
    assert dead.headers["dead-attempts"] == "3"
    assert dead.headers["dead-message"] == "no such ? thing"
    assert "raise ValueError" in dead.headers["dead-traceback"]
    assert (dead.headers["dead-exchange"], dead.headers["dead-id"]) == (exchange, "failing")


async def test_rejected_and_invalid_messages_are_dead_lettered_at_once_and_the_others_are_handled(
    brokers: Brokers, exchange: str
) -> None:
    handled: list[int] = []

    @consumer(exchange=exchange, id="q")
    async def handler(body: dict[str, int]) -> None:
        if body["n"] == 1:
            raise Reject("one is refused")
        handled.append(body["n"])

    bad = [b'{"n": 1}', b"{", b"[1]", b'{"n": "text"}', b"\xff", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"]
    async with working(brokers, handler) as (channel,):
        await publish(brokers, exchange, *bad, b'{"n": 2}')
        await until(lambda: channel.counts.dead_lettered == len(bad) and handled == [2], "7 dead-lettered, 1 handled")
        dead = await dead_letters(brokers, exchange, "q", len(bad))
    assert Counter(message.headers["dead-reason"] for message in dead) == {"rejected": 1, "InvalidMessage": 6}
    assert {message.headers["dead-attempts"] for message in dead} == {"1"}


async def test_what_comes_in_the_moment_of_a_drain_does_not_hold_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @consumer(exchange="E", id="q")
    async def handler(body: dict[str, int]) -> None:
        begun.set()
        await go_on.wait()

    brokers = Brokers(Settings(brokers={"main": "memory:"}))
    channel = Channel(Step(handler, brokers.publish, {}), brokers.route("E"))
    drained: list[asyncio.Task[None]] = []
    receive = MemorySubscription.receive

    async def and_drain(subscription: MemorySubscription, limit: int, timeout: float) -> list[Delivery]:
        deliveries = await receive(subscription, limit, timeout)
        if deliveries and begun.is_set():
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: drained.append(loop.create_task(channel.drain(PATIENCE))))
        return deliveries

    # Given a handler at work, and a drain that begins when the transport has the next message and the core has not
    monkeypatch.setattr(MemorySubscription, "receive", and_drain)
    await channel.declare()
    channel.start()
    await publish(brokers, "E", b"{}")
    await begun.wait()
    await publish(brokers, "E", b"{}")
    await until(lambda: bool(drained), "it has come")
    # When the handler ends, then the drain does too, long before the grace is over, and the message waits again
    go_on.set()
    async with asyncio.timeout(PATIENCE / 2):
        await drained[0]
    assert (channel.held, await channel.depth()) == (0, 1)
    await brokers.close()


@everywhere
async def test_a_drained_message_is_not_counted_as_an_attempt(brokers: Brokers, exchange: str) -> None:
    attempts: list[int] = []
    block = True

    @consumer(exchange=exchange, id="q")
    async def handler(body: dict[str, Any], message: Message) -> None:
        attempts.append(message.attempt)
        if block:
            await asyncio.Event().wait()

    # Given a handler that does not end, when it is drained without grace
    async with working(brokers, handler, grace=0.0):
        await publish(brokers, exchange, b"{}")
        await until(lambda: attempts == [1], "it is being handled")
    # Then the next one gets the message, as its first attempt
    block = False
    async with working(brokers, handler) as (channel,):
        await until(lambda: channel.counts.handled == 1, "it is handled")
    assert attempts == [1, 1]


async def test_running_handlers_finish_within_the_grace_time(brokers: Brokers, exchange: str) -> None:
    go_on = asyncio.Event()
    started: list[int] = []
    finished: list[int] = []

    @consumer(exchange=exchange, id="q", concurrency=3, prefetch=10)
    async def handler(body: dict[str, int]) -> None:
        started.append(body["n"])
        await go_on.wait()
        finished.append(body["n"])

    async with working(brokers, handler) as (channel,):
        await publish(brokers, exchange, *(b'{"n": %d}' % n for n in range(10)))
        await until(lambda: len(started) == 3 and channel.held == 10, "3 run, 7 wait")
        asyncio.get_running_loop().call_later(0.2, go_on.set)
    assert sorted(finished) == sorted(started), "what ran was finished, nothing else was started"
    assert len(finished) == 3
    await until_depth(channel, 7)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_handler_longer_than_its_lease_keeps_its_message(url: str, brokers: Brokers, exchange: str) -> None:
    handled: list[str] = []

    def worker(name: str) -> Consumer:
        @consumer(exchange=exchange, id="q")
        async def handler(body: dict[str, Any]) -> None:
            await asyncio.sleep(2.5)  # the lease is one second
            handled.append(name)

        return handler

    other = Brokers(Settings(brokers={"main": url}))
    async with working(brokers, worker("first")), working(other, worker("second")):
        await publish(brokers, exchange, b"{}")
        await until(lambda: len(handled) == 1, "it is handled")
        await asyncio.sleep(1.5)
    assert len(handled) == 1
    await other.close()


async def test_outputs_of_a_repeated_message_have_the_same_ids(brokers: Brokers, exchange: str) -> None:
    out = f"{exchange}.out"
    outputs: list[tuple[int, str, str]] = []

    @consumer(exchange=exchange, id="q", to=out, backoff=0.05)
    async def handler(body: dict[str, Any], message: Message) -> AsyncIterator[Any]:
        yield {"n": 0}
        yield Out({"n": 1}, headers={"h": "v"}, key="k")
        if message.attempt == 1:
            await until(lambda: len(outputs) == 2, "the outputs of the first attempt arrive")
            raise ValueError("after the outputs")

    @consumer(exchange=out, id="sink")
    async def sink(body: dict[str, int], message: Message) -> None:
        outputs.append((body["n"], message.id, message.producer))

    async with working(brokers, sink, handler):
        await publish(brokers, exchange, b"{}", id="m1")
        await until(lambda: len(outputs) == 4, "both attempts put out twice")
    assert len(set(outputs)) == 2
    assert {producer for _, _, producer in outputs} == {"q"}


async def test_a_generator_has_back_pressure_and_all_its_outputs_are_confirmed_before_the_ack(
    brokers: Brokers, exchange: str
) -> None:
    under_way, most, confirmed = 0, 0, 0

    async def counting_publish(message: Message) -> None:
        nonlocal under_way, most, confirmed
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        confirmed += 1

    @consumer(exchange=exchange, id="q", to="anywhere")
    async def handler(body: dict[str, Any]) -> AsyncIterator[dict[str, int]]:
        for n in range(3 * UNCONFIRMED):
            yield {"n": n}

    async with working(brokers, handler, publish=counting_publish) as (channel,):
        await publish(brokers, exchange, b"{}")
        await until(lambda: channel.counts.handled == 1, "it is handled")
    assert confirmed == 3 * UNCONFIRMED
    assert most <= UNCONFIRMED


async def test_a_batch_handler_gets_lists_and_one_bad_message_does_not_take_the_others_with_it(
    brokers: Brokers, exchange: str
) -> None:
    sizes: list[int] = []
    seen: list[int] = []

    @consumer(exchange=exchange, id="q", batch_size=10, batch_wait=0.2)
    async def handler(bodies: list[dict[str, int]], messages: list[Message]) -> None:
        assert [message.exchange for message in messages] == [exchange] * len(bodies)
        if any(body["n"] == 7 for body in bodies):
            raise Reject("seven")
        sizes.append(len(bodies))
        seen.extend(body["n"] for body in bodies)

    channel = Channel(Step(handler, brokers.publish, {}), brokers.route(exchange))
    await channel.declare()
    await publish(brokers, exchange, *(b'{"n": %d}' % n for n in range(25)))
    channel.start()
    await until(lambda: len(seen) == 24 and channel.counts.dead_lettered == 1, "24 handled, 1 dead-lettered")
    await channel.drain(1.0)
    assert sorted(seen) == [n for n in range(25) if n != 7]
    assert max(sizes) == 10
    await until_depth(channel, 0)


async def test_a_handler_that_takes_too_long_is_a_failed_attempt(brokers: Brokers, exchange: str) -> None:
    @consumer(exchange=exchange, id="q", timeout=0.05, retries=0)
    async def handler(body: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    async with working(brokers, handler) as (channel,):
        await publish(brokers, exchange, b"{}")
        await until(lambda: channel.counts.dead_lettered == 1, "it is dead-lettered")
        (dead,) = await dead_letters(brokers, exchange, "q", 1)
    assert dead.headers["dead-message"] == "the handler took longer than its timeout of 0.05 s"


async def test_steps_that_put_out_more_than_they_may_hold_do_not_deadlock(brokers: Brokers, exchange: str) -> None:
    second, third = f"{exchange}.2", f"{exchange}.3"
    arrived: list[int] = []

    @consumer(exchange=exchange, id="q", to=second, concurrency=1, prefetch=1)
    async def many(body: dict[str, int]) -> AsyncIterator[dict[str, int]]:
        for n in range(100):
            yield {"n": body["n"] * 100 + n}

    @consumer(exchange=second, id="q", to=third, concurrency=1, prefetch=1)
    async def one(body: dict[str, int]) -> dict[str, int]:
        return body

    @consumer(exchange=third, id="q", concurrency=1, prefetch=1)
    async def sink(body: dict[str, int]) -> None:
        arrived.append(body["n"])

    async with working(brokers, sink, one, many):
        await publish(brokers, exchange, *(b'{"n": %d}' % n for n in range(5)))
        await until(lambda: len(arrived) == 500, "all 500 outputs arrive", patience=90)
    assert sorted(arrived) == list(range(500))


async def test_publishing_where_no_queue_exists_raises_unroutable_unless_the_exchange_is_optional(
    url: str, brokers: Brokers, exchange: str
) -> None:
    with pytest.raises(Unroutable, match=exchange):
        await publish(brokers, exchange, b"{}")
    optional = Brokers(Settings(brokers={"main": url}, exchanges={exchange: ExchangeSettings(optional=True)}))
    await publish(optional, exchange, b"{}")
    await optional.close()


async def test_a_step_whose_output_has_nowhere_to_go_is_retried_and_then_dead_lettered(
    brokers: Brokers, exchange: str
) -> None:
    @consumer(exchange=exchange, id="q", to=f"{exchange}.nowhere", retries=1, backoff=0.05)
    async def handler(body: dict[str, Any]) -> dict[str, Any]:
        return body

    async with working(brokers, handler) as (channel,):
        await publish(brokers, exchange, b"{}")
        await until(lambda: channel.counts.dead_lettered == 1, "it is dead-lettered")
        (dead,) = await dead_letters(brokers, exchange, "q", 1)
    assert (dead.headers["dead-reason"], dead.headers["dead-attempts"]) == ("Unroutable", "2")


async def test_a_message_that_no_broker_can_carry_is_refused_and_the_others_go_through(
    brokers: Brokers, exchange: str
) -> None:
    handled: list[int] = []

    @consumer(exchange=exchange, id="q")
    async def handler(body: dict[str, int]) -> None:
        handled.append(body["n"])

    async with working(brokers, handler):
        results = await asyncio.gather(
            brokers.publish(Message(body=b'{"n": 1}', exchange=exchange)),
            brokers.publish(Message(body=b"{}", exchange=exchange, headers={"h": "x" * 70_000})),
            brokers.publish(Message(body=b"{}", exchange=exchange, headers={"h": "\ud800"})),
            brokers.publish(Message(body=b"{}", exchange=exchange, id="\ud800")),
            brokers.publish(Message(body=b'{"n": 2}', exchange=exchange)),
            return_exceptions=True,
        )
        await until(lambda: sorted(handled) == [1, 2], "the two good ones are handled")
    kinds = [type(result) for result in results]
    assert kinds == [type(None), MessageTooLarge, ConfigurationError, ConfigurationError, type(None)]


async def test_the_class_form_produces_and_consumes(url: str, exchange: str) -> None:
    seen: list[Any] = []

    class Printer(Consumer):
        async def process(self, message: Any) -> None:
            seen.append(message)

    printing = asyncio.create_task(Printer(id="myConsumerID", exchange=exchange).consume(broker=url))
    async with Producer(id="myProducerID", exchange=exchange, broker=url) as producer:
        while True:
            try:
                id = await producer.produce({"msg": "some values"}, key="k", headers={"h": "v"})
                break
            except Unroutable:
                await asyncio.sleep(0.05)
    await until(lambda: seen == [{"msg": "some values"}], "it is printed")
    assert id
    printing.cancel()
    await asyncio.gather(printing, return_exceptions=True)
    with pytest.raises(ConfigurationError, match="not open"):
        await producer.produce({})


async def test_produce_gives_up_after_its_timeout_when_the_broker_is_away(exchange: str) -> None:
    async with Producer(id="p", exchange=exchange, broker="amqp://guest:guest@127.0.0.1:1/") as producer:
        with pytest.raises(BrokerLost, match=r"127.0.0.1:1/ has not confirmed message .* within 0.3 s"):
            await producer.produce({}, timeout=0.3)


@pytest.mark.parametrize("url", ["sqlite", "rabbitmq", "kafka"], indirect=True)
async def test_messages_of_one_key_are_handled_one_after_another_and_other_keys_beside_them(
    brokers: Brokers, exchange: str
) -> None:
    order: dict[str | None, list[int]] = {"a": [], "b": [], None: []}
    at_work: Counter[str | None] = Counter()
    most: Counter[str | None] = Counter()
    together = 0

    @consumer(exchange=exchange, id="q", concurrency=5, prefetch=100, ordered="key")
    async def handler(body: int, message: Message) -> None:
        nonlocal together
        at_work[message.key] += 1
        most[message.key] = max(most[message.key], at_work[message.key])
        together = max(together, at_work.total())
        await asyncio.sleep(0.005 * (body % 3))  # longer than a publish takes
        order[message.key].append(body)
        at_work[message.key] -= 1

    async with working(brokers, handler):
        for n in range(30):
            for key in order:
                await publish(brokers, exchange, b"%d" % n, key=key)
        await until(lambda: sum(map(len, order.values())) == 90, "all are handled")
    assert order["a"] == order["b"] == list(range(30)), "in the order they came"
    assert (most["a"], most["b"]) == (1, 1)
    assert together > 1, "different keys are handled at the same time"
    assert sorted(order[None]) == list(range(30))


async def test_a_busy_key_keeps_no_worker_from_other_keys_and_a_drain_gives_back_what_waits_behind_it(
    brokers: Brokers, exchange: str
) -> None:
    release, other = asyncio.Event(), asyncio.Event()
    handled: list[int] = []

    @consumer(exchange=exchange, id="q", concurrency=2, prefetch=100, ordered="key")
    async def handler(body: int, message: Message) -> None:
        if message.key == "other":
            other.set()
        else:
            handled.append(body)
            await release.wait()

    async with working(brokers, handler, grace=0.0) as (channel,):
        # Given ten messages of one key, the first of which takes its time
        await publish(brokers, exchange, *(b"%d" % n for n in range(10)), key="busy")
        await until(lambda: channel.held == 10, "all are in hand")
        # When one of another key comes, then it is handled
        await publish(brokers, exchange, b"99", key="other")
        await asyncio.wait_for(other.wait(), PATIENCE)
        assert len(handled) == 1
    await until_depth(channel, 10)


async def test_a_key_goes_on_after_a_message_that_failed(brokers: Brokers, exchange: str) -> None:
    handled: list[int] = []

    @consumer(exchange=exchange, id="q", prefetch=100, ordered="key")
    async def handler(body: int) -> None:
        if body == 1:
            raise Reject("never this one")
        handled.append(body)

    async with working(brokers, handler):
        for n in range(4):
            await publish(brokers, exchange, b"%d" % n, key="a")
        await until(lambda: len(handled) == 3, "the others are handled")
    assert handled == [0, 2, 3]


async def test_a_broker_that_comes_and_goes_is_told_in_pairs_and_seldom(caplog: pytest.LogCaptureFixture) -> None:
    brokers = Brokers(Settings(brokers={"main": f"memory:{new_id()}"}))
    broker = brokers.named("main")
    for _ in range(5):
        broker.lost(await broker.connected(), BrokerLost("gone"))
        await broker.call(lambda transport: transport.queues())
    await brokers.close()
    about = f"broker main at {broker.address}"
    assert caplog.messages == [f"{about} is disconnected: gone; reconnecting", f"{about} is connected again"]


@pytest.mark.parametrize("ordered", ["id", True, 1, ""])
def test_ordered_takes_key_and_nothing_else(ordered: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"ordered is {ordered!r}; it takes 'key'"):

        @consumer(exchange="e", id="q", ordered=ordered)
        async def handler(body: int) -> None: ...


def test_a_batch_cannot_be_ordered() -> None:
    @consumer(exchange="e", id="q", ordered="key")
    async def handler(bodies: list[int]) -> None: ...

    async def publish(message: Message) -> None: ...

    with pytest.raises(ConfigurationError, match=r"handler.* takes a list, and ordered='key'"):
        Step(handler, publish, {})
