"""Health: how a running process is, as data, and reports, by which it tells that on its brokers; nothing is shown."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Self

import msgspec

from ..brokers.broker import Broker
from ..brokers.temporary import TemporaryQueue, sweep
from ..core.channel import Channel
from ..core.settlement import Counts
from ..core.source import Feed
from ..errors import BrokerRefused, MqasyncError
from ..message import Message, new_id
from ..transport import Delivery

log = logging.getLogger("mqasync")

STATUS = "mqasync.status"
"""The exchange of the reports; nobody has to listen to it."""
HEARD_SECONDS = 1.0  # between two reports while somebody listens
UNHEARD_SECONDS = 3.0  # and while nobody does
GONE_SECONDS = 10.0  # a process that has not reported for so long is gone


class BrokerHealth(msgspec.Struct, frozen=True):
    """`state` is that of Broker.state; `reconnects` counts since the start."""

    state: str
    reconnects: int


class ConsumerHealth(Counts, kw_only=True):
    """How a consumer is; what is counted, is counted since the start.

    `consuming`: the broker sends its messages here. `held`: deliveries in hand. `oldest`: seconds since the
    oldest of them was first published, None if there are none. `published`: its outputs, by exchange. `to`: its
    declared ones.
    """

    exchange: str
    id: str
    to: tuple[str, ...]
    consuming: bool
    held: int
    oldest: float | None
    published: dict[str, int]

    @property
    def lag(self) -> float:
        """`oldest`, or 0."""
        return self.oldest or 0.0


class ProducerHealth(msgspec.Struct, frozen=True):
    """How a producer is; `published` and `failed`, its runs that did not succeed, count since the start.

    `failing`: its last run did not succeed, and why is the `last_error`.
    """

    exchange: str
    id: str
    published: int
    failed: int
    failing: bool
    last_error: str


class Health(msgspec.Struct, frozen=True):
    """At `time` (seconds since 1970): brokers by name, consumers and producers by exchange/id.

    `lags`: how often the event loop stood still for a second or more.
    """

    time: float
    brokers: dict[str, BrokerHealth]
    consumers: dict[str, ConsumerHealth]
    producers: dict[str, ProducerHealth]
    lags: int

    @property
    def ready(self) -> bool:
        """True while every broker takes messages and every consumer really consumes."""
        connected = all(broker.state == "connected" for broker in self.brokers.values())
        return connected and all(consumer.consuming for consumer in self.consumers.values())

    @property
    def failing(self) -> dict[str, str]:
        """The producers whose last run failed, by exchange/id, and why."""
        return {name: producer.last_error for name, producer in self.producers.items() if producer.failing}


def health(brokers: Iterable[Broker], channels: Iterable[Channel], feeds: Iterable[Feed], lags: int) -> Health:
    """How they are now."""
    return Health(
        time=time.time(),
        brokers={broker.name: BrokerHealth(broker.state, broker.reconnects) for broker in brokers},
        consumers={channel.name: _consumer(channel) for channel in channels},
        producers={feed.name: _producer(feed) for feed in feeds},
        lags=lags,
    )


def _consumer(channel: Channel) -> ConsumerHealth:
    return ConsumerHealth(
        exchange=channel.exchange,
        id=channel.id,
        to=channel.step.consumer.options.to,
        consuming=channel.consuming,
        held=channel.held,
        oldest=channel.oldest,
        published=dict(channel.step.outputs),
        **msgspec.structs.asdict(channel.counts),
    )


def _producer(feed: Feed) -> ProducerHealth:
    source = feed.source
    return ProducerHealth(source.exchange, source.id, feed.published, feed.failed, feed.failing, feed.last_error)


class Report(msgspec.Struct, frozen=True):
    """One process: where it runs, what, since when (seconds since 1970), and how it is.

    `rates`: messages a second in the last second or so: handled or published by exchange/id, put out by
    "exchange/id to exchange".
    """

    process: str
    host: str
    pid: int
    services: tuple[str, ...]
    started: float
    health: Health
    rates: dict[str, float]

    @property
    def up(self) -> float:
        """Seconds since its start."""
        return max(0.0, time.time() - self.started)


DECODE = msgspec.json.Decoder(Report).decode


class Reporter:
    """Reports on behalf of one process, by `run`, until it is cancelled."""

    def __init__(self, services: Iterable[str], health: Callable[[], Health]) -> None:
        self._services = tuple(services)
        self._health = health
        self._process = new_id()
        self._before = health()
        self._started = self._before.time
        self._rates: dict[str, float] = {}

    async def run(self, brokers: Iterable[Broker]) -> None:
        """Tell it on each of them, again and again, and delete what others who told it have left there."""
        brokers = list(brokers)
        await asyncio.gather(*map(self._tell, brokers), *map(sweep, brokers))

    async def _tell(self, broker: Broker) -> None:
        while True:
            pause = HEARD_SECONDS
            try:
                await broker.publish(STATUS, Message(body=msgspec.json.encode(self.report()), exchange=STATUS))
            except BrokerRefused as error:
                return log.info("this process does not report its status: %s", error)
            except MqasyncError:  # nobody listens, or too much to tell
                pause = UNHEARD_SECONDS
            await asyncio.sleep(pause)

    def report(self) -> Report:
        """How this process is."""
        now = self._health()
        if now.time - self._before.time >= HEARD_SECONDS / 2:
            self._rates, self._before = rates(self._before, now), now
        return Report(
            process=self._process,
            host=socket.gethostname(),
            pid=os.getpid(),
            services=self._services,
            started=self._started,
            health=now,
            rates=self._rates,
        )


def rates(before: Health, now: Health) -> dict[str, float]:
    """Messages a second between the two, by exchange/id: handled by consumers, published by producers."""
    seconds, counted = max(now.time - before.time, 0.001), _counts(before)
    return {name: max(0, count - counted.get(name, 0)) / seconds for name, count in _counts(now).items()}


def _counts(health: Health) -> dict[str, int]:
    counts = {name: producer.published for name, producer in health.producers.items()}
    for name, consumer in health.consumers.items():
        counts[name] = counts.get(name, 0) + consumer.handled
        counts |= {output(name, to): count for to, count in consumer.published.items()}
    return counts


def output(name: str, to: str) -> str:
    """The name of the rate at which exchange/id puts out to an exchange."""
    return f"{name} to {to}"


class Reports:
    """`async with Reports(brokers) as reports`: what the processes on these brokers report, from entering on.

    Each is listened to as soon as it answers; of one that refuses, which is said, nothing is heard.
    """

    def __init__(self, brokers: Iterable[Broker]) -> None:
        self._brokers = list(brokers)
        self._heard: dict[str, tuple[float, Report]] = {}

    async def __aenter__(self) -> Self:
        self._listening = [asyncio.create_task(self._listen(broker)) for broker in self._brokers]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)

    async def _listen(self, broker: Broker) -> None:
        try:
            async with TemporaryQueue(broker, STATUS, new_id(), self._take) as queue:
                await queue.working
        except MqasyncError as error:
            log.warning("what processes report on broker %s is not heard: %s", broker.name, error)

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            with suppress(msgspec.MsgspecError):  # a stranger's, or another version's
                report = DECODE(delivery.message.body)
                self._heard[report.process] = (time.monotonic(), report)

    def now(self) -> list[Report]:
        """The newest report of each process that is there."""
        since = time.monotonic() - GONE_SECONDS
        self._heard = {process: heard for process, heard in self._heard.items() if heard[0] > since}
        return [report for _, report in self._heard.values()]
