"""The state of a running process, as data, and the reports of it on its brokers; nothing is shown."""

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Self

import msgspec

from ..brokers.broker import Broker, Brokers
from ..brokers.temporary import TemporaryQueue, sweep
from ..core.channel import Channel
from ..core.feed import Feed
from ..core.settlement import Counts
from ..errors import BrokerRefused, MqasyncError
from ..message import Message, new_id
from ..transport import Delivery
from .lag import LoopWatch

log = logging.getLogger("mqasync")

STATUS = "mqasync.status"
"""The exchange of the reports; it works without listeners."""
HEARD_SECONDS = 1.0  # between two reports while somebody listens
UNHEARD_SECONDS = 3.0  # and while nobody does
GONE_SECONDS = 10.0  # a process that has not reported for so long is gone


class BrokerHealth(msgspec.Struct, frozen=True):
    """`state` is that of Broker.state; `reconnects` counts since the start."""

    state: str
    reconnects: int


class ConsumerHealth(Counts, kw_only=True):
    """The state of a consumer; counts are since the start.

    `consuming`: the broker sends its messages here. `held`: messages in flight. `oldest`: seconds since the
    oldest of them was first published, None if there are none. `published`: its outputs, by exchange.
    `to`: its declared ones.
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
    """The state of a producer; `published`, by exchange, and `failed`, its failed runs, count since the start.

    `failing`: its last run failed; `last_error` says why.
    """

    exchange: str
    id: str
    published: dict[str, int]
    failed: int
    failing: bool
    last_error: str


class Report(msgspec.Struct, frozen=True):
    """The state of one process at `time`, and since when it runs (both in seconds since 1970).

    Brokers are listed by name, consumers and producers by exchange/id. `lags`: how often the event loop was
    blocked for a second or more. `rates`: messages per second in the last second or so: handled or published by
    exchange/id, published to an exchange by "exchange/id to exchange".
    """

    process: str
    host: str
    pid: int
    services: tuple[str, ...]
    started: float
    time: float
    brokers: dict[str, BrokerHealth]
    consumers: dict[str, ConsumerHealth]
    producers: dict[str, ProducerHealth]
    lags: int
    rates: dict[str, float]

    @property
    def ready(self) -> bool:
        """True while every broker accepts messages and every consumer really consumes."""
        connected = all(broker.state == "connected" for broker in self.brokers.values())
        return connected and all(consumer.consuming for consumer in self.consumers.values())

    @property
    def failing(self) -> dict[str, str]:
        """The producers whose last run failed, by exchange/id, and why."""
        return {name: producer.last_error for name, producer in self.producers.items() if producer.failing}


DECODE = msgspec.json.Decoder(Report).decode


class Reporter:
    """Reports on behalf of one process, by `run`, until it is cancelled."""

    def __init__(
        self, services: Iterable[str], brokers: Brokers, channels: list[Channel], feeds: list[Feed], watch: LoopWatch
    ) -> None:
        self._services = tuple(services)
        self._brokers, self._channels, self._feeds, self._watch = brokers, channels, feeds, watch
        self._process, self._started = new_id(), time.time()
        self._counted, self._counts = time.monotonic(), dict[str, int]()  # when, and what
        self._rates: dict[str, float] = {}

    async def run(self) -> None:
        """Report on each broker, again and again, and delete what other processes' reports have left there."""
        brokers = list(self._brokers.opened.values())
        await asyncio.gather(*map(self._tell, brokers), *map(sweep, brokers))

    async def _tell(self, broker: Broker) -> None:
        while True:
            pause = HEARD_SECONDS
            try:
                await broker.publish(STATUS, Message(body=msgspec.json.encode(self.now()), exchange=STATUS))
            except BrokerRefused as error:
                return log.info("this process does not report its status: %s", error)
            except MqasyncError:  # nobody listens, or too much to tell
                pause = UNHEARD_SECONDS
            await asyncio.sleep(pause)

    def now(self) -> Report:
        """The state of this process; also before it has begun to work, and at its end."""
        elapsed = time.monotonic() - self._counted
        if elapsed >= HEARD_SECONDS / 2:
            before, self._counts = self._counts, self._count()
            made = {name: count - before.get(name, 0) for name, count in self._counts.items()}
            self._rates = {name: count / elapsed for name, count in made.items()}
            self._counted += elapsed
        return Report(
            process=self._process,
            host=socket.gethostname(),
            pid=os.getpid(),
            services=self._services,
            started=self._started,
            time=time.time(),
            brokers={one.name: BrokerHealth(one.state, one.reconnects) for one in self._brokers.opened.values()},
            consumers={channel.name: _consumer(channel) for channel in self._channels},
            producers={feed.name: _producer(feed) for feed in self._feeds},
            lags=self._watch.lags,
            rates=self._rates,
        )

    def _count(self) -> dict[str, int]:
        counts = Counter[str]()
        for feed in self._feeds:
            counts[feed.name] += feed.outputs.total()
            counts.update({output(feed.name, to): count for to, count in feed.outputs.items()})
        for channel in self._channels:
            counts[channel.name] += channel.counts.handled
            counts.update({output(channel.name, to): count for to, count in channel.step.outputs.items()})
        return counts


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
    told = dict(feed.outputs), feed.failed, feed.failing, feed.last_error
    return ProducerHealth(source.exchange, source.id, *told)


def output(name: str, to: str) -> str:
    """The name of the rate at which exchange/id publishes to an exchange."""
    return f"{name} to {to}"


class Reports:
    """`async with Reports(brokers) as reports`: what the processes on these brokers report, from entering on.

    It listens on each broker as soon as that answers; one that refuses is logged, and its reports are missing.
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
            log.warning("the reports of processes on broker %s cannot be received: %s", broker.name, error)

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            with suppress(msgspec.MsgspecError):  # a stranger's, or another version's
                report = DECODE(delivery.message.body)
                self._heard[report.process] = (time.monotonic(), report)

    def now(self) -> list[Report]:
        """The newest report of each process that is running."""
        since = time.monotonic() - GONE_SECONDS
        self._heard = {process: heard for process, heard in self._heard.items() if heard[0] > since}
        return [report for _, report in self._heard.values()]
