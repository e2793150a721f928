"""Runner: services at work in one event loop, from opening brokers to draining; no command line, no printing."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import Context
from operator import methodcaller
from typing import Self, TypeVar

from ..brokers.broker import Brokers
from ..config.settings import Settings
from ..core.channel import Channel
from ..core.dedup import seen_of
from ..core.feed import Feed
from ..core.poison import Quarantine
from ..core.settlement import Observe, ignore
from ..errors import BrokerLost, MqasyncError
from ..handler import Binding
from ..handlers.attempt import STOP_SECONDS, ended
from ..handlers.step import Around, Step
from ..observe.lag import LoopWatch
from ..observe.report import Reporter
from ..observe.telemetry import traced
from ..transport import DEAD
from .discovery import Service
from .lifespan import Lifespan

T = TypeVar("T")
log = logging.getLogger("mqasync")

IDLE_SECONDS = 0.1  # pause between two looks whether there is anything left to do


class Runner:
    """`async with Runner(services, settings) as runner`: consuming inside the block, drained at its end.

    `wait`: seconds within which the brokers must answer at the start, and a queue must be bound to each exchange
    that a producer publishes to; None waits forever. `grace`: seconds that running handlers get at the end.
    Entering raises ConfigurationError, BrokerRefused, or BrokerLost after `wait`.
    """

    def __init__(
        self,
        services: Sequence[Service],
        settings: Settings,
        *,
        until_idle: bool = False,
        wait: float | None = None,
        grace: float = 30.0,
        brokers: Brokers | None = None,
        observe: Observe = ignore,
        around: Sequence[Around] = (),
    ) -> None:
        self.services = services
        self.settings = settings
        self.channels: list[Channel] = []
        self.feeds: list[Feed] = []
        self.started = False  # everything is opened and declared, and nothing is being drained
        self.brokers, tracing = (brokers, ()) if brokers else traced(settings)
        self._until_idle = until_idle
        self._wait = wait
        self._grace = grace
        self._observe = observe
        self._around = [*around, *tracing]
        self._quarantine = Quarantine()
        self._lifespans: list[Lifespan] = []
        self._contexts: dict[Feed, Context] = {}  # of their lifespan()
        self._stack = AsyncExitStack()
        self._receivers: set[asyncio.Task[None]] = set()
        handlers = [consumer.handler for service in services for consumer in service.consumers]
        handlers += [producer.handler for service in services for producer in service.producers]
        self._watch = LoopWatch(handlers)
        self._tasks: list[asyncio.Task[None]] = []  # producers, and who waits for the end
        names = [service.name for service in services]
        self.reporter = Reporter(names, self.brokers, self.channels, self.feeds, self._watch)
        self.health = self.reporter.now

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise
        return self

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(self._wait):
                await declare(self.services, self.brokers)
        except TimeoutError:
            addresses = ", ".join(broker.address for broker in self.brokers.opened.values())
            raise BrokerLost(f"no answer from {addresses} within {self._wait:g} s") from None
        for service in self.services:
            await self._ready(service)
        warn([channel.step.consumer for channel in self.channels], self.brokers)
        self._stack.enter_context(self._watch)
        self._receivers = {channel.start(declared=True) for channel in self.channels}
        self._tasks.append(asyncio.create_task(self.reporter.run()))
        self.started = True

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter a context that ends with the runner, before its brokers are closed."""
        return await self._stack.enter_async_context(context)

    async def _ready(self, service: Service) -> None:
        """Open the service's lifespan() and make its handlers ready to be called."""
        lifespan = Lifespan(service, self.settings)
        self._lifespans.append(lifespan)
        injected = await lifespan.open()
        for consumer in map(self.settings.configured, service.consumers):
            step = Step(consumer, self.brokers.publish, injected)
            broker, seen = self.brokers.route(consumer.exchange), seen_of(consumer, self.settings.dedup)
            channel = Channel(step, broker, self._observe, self._quarantine, seen, self._around, lifespan.context)
            self.channels.append(channel)
        for producer in service.producers:
            feed = Feed(producer, self.brokers, injected, self._until_idle, self._wait)
            self.feeds.append(feed)
            self._contexts[feed] = lifespan.context

    async def finished(self) -> None:
        """Wait until all producers are exhausted and, with until_idle, all queues are empty.

        Without until_idle it returns only if there is no consumer. Raises what ended a consumer for good, and
        a mistake that a producer found at the start; at the end MqasyncError for producers that have failed.
        """
        feeds = [
            asyncio.create_task(feed.run(), name=f"the producer {feed.name}", context=context.copy())
            for feed, context in self._contexts.items()
        ]
        idle = asyncio.create_task(self.idle(feeds)) if self._until_idle else None
        self._tasks += [*feeds, *([idle] if idle else [])]
        pending = self._receivers | set(feeds) | ({idle} if idle else set())
        lifespans = {lifespan.task for lifespan in self._lifespans if not lifespan.task.done()}
        while pending:
            done, _ = await asyncio.wait(pending | lifespans, return_when=asyncio.FIRST_COMPLETED)
            pending -= done
            lifespans -= done
            for task in done:
                await task
            if idle in done:
                break
        if failing := [f"{feed.name} has failed: {feed.last_error}" for feed in self.feeds if feed.failing]:
            raise MqasyncError("; ".join(failing))

    async def idle(self, feeds: Sequence[asyncio.Task[None]] = ()) -> None:
        """Wait until these have ended, every queue consumed here is empty and nothing is in flight."""
        if feeds:
            await asyncio.wait(feeds)
        quiet, received = 0, [0]
        while quiet < 2:  # a message may be on its way while the queue is already empty
            busy = any([channel.held or await channel.depth() for channel in self.channels])
            before, received = received, [channel.counts.received for channel in self.channels]
            quiet = 0 if busy or received != before else quiet + 1
            await asyncio.sleep(IDLE_SECONDS)

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drain: stop producers and receiving, let running handlers finish, requeue the rest, close the brokers.

        It takes `grace` and a few seconds: what does not end when it is cancelled is left behind, with a warning.
        """
        self.started = False
        deadline = asyncio.get_running_loop().time() + self._grace + STOP_SECONDS
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(ended(self._tasks), *(channel.drain(self._grace) for channel in self.channels))
        try:
            async with AsyncExitStack() as stack:
                for lifespan in self._lifespans:
                    stack.push_async_callback(lifespan.close, deadline)
                await self._stack.aclose()
        finally:
            await self.brokers.close()


async def declare(services: Sequence[Service], brokers: Brokers) -> None:
    """Every queue, with its dead letters, exists before the first message is published; every broker is connected."""
    settings = brokers.settings
    consumers = [consumer for service in services for consumer in service.consumers]
    exchanges = exchanges_of(services)
    in_use = {brokers.route(exchange).name for exchange in exchanges}
    consumed = {(consumer.exchange, consumer.id) for consumer in consumers}
    required = {(exchange, id) for exchange, own in settings.exchanges.items() for id in own.requires}
    for exchange, id in sorted(consumed | {queue for queue in required if settings.broker_of(queue[0]) in in_use}):
        broker = brokers.route(exchange)
        if (exchange, id) in consumed:
            await broker.call(methodcaller("declare", exchange, id + DEAD, bound=False))
        await broker.call(methodcaller("declare", exchange, id))
    for exchange in sorted(exchanges):
        await brokers.route(exchange).connected()


def exchanges_of(services: Sequence[Service]) -> set[str]:
    """Every exchange that these consume from or publish to."""
    consumers = [consumer for service in services for consumer in service.consumers]
    producers = [producer for service in services for producer in service.producers]
    exchanges = {consumer.exchange for consumer in consumers} | {producer.exchange for producer in producers}
    return exchanges | {exchange for consumer in consumers for exchange in consumer.options.to}


def warn(consumers: Sequence[Binding], brokers: Brokers) -> None:
    """Log which of the model's promises do not hold here."""
    for broker in brokers.opened.values():
        if not broker.durable:
            what = "keeps messages in this process only: they are lost when it ends"
            log.warning("broker %s (%s) %s", broker.name, broker.address, what)
    heard = {consumer.exchange for consumer in consumers}
    heard |= {name for name, own in brokers.settings.exchanges.items() if own.requires or own.optional}
    for consumer in consumers:
        for exchange in set(consumer.options.to) - heard:
            what = "nothing here consumes: unless another service does, its messages are retried, then dead-lettered"
            log.warning("%s/%s publishes to %r, which %s", consumer.exchange, consumer.id, exchange, what)
