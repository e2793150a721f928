"""Runner: services at work in one event loop, from opening brokers to draining; no command line, no printing."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from operator import methodcaller
from typing import Any, Self, get_type_hints

import msgspec

from .broker import Brokers
from .channel import Channel, ignore
from .config import Settings
from .discovery import Service
from .errors import BrokerLost, ConfigurationError
from .settlement import Observe
from .source import Feed
from .step import Step

log = logging.getLogger("mqasync")

IDLE_SECONDS = 0.1  # pause between two looks whether there is anything left to do


class Runner:
    """`async with Runner(services, settings) as runner`: consuming inside the block, drained at its end.

    `wait`: seconds the brokers get to answer at start, and a queue to be bound to what a producer
    publishes; None waits for ever. `grace`: seconds that running handlers get at the end.
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
    ) -> None:
        self.services = services
        self.settings = settings
        self.channels: list[Channel] = []
        self.feeds: list[Feed] = []
        self.brokers = brokers or Brokers(settings)
        self._until_idle = until_idle
        self._wait = wait
        self._grace = grace
        self._observe = observe
        self._stack = AsyncExitStack()
        self._receivers: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []  # producers, and who waits for the end

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
                await self._declare()
        except TimeoutError:
            addresses = ", ".join(broker.address for broker in self.brokers.opened.values())
            raise BrokerLost(f"no answer from {addresses} within {self._wait:g} s") from None
        for service in self.services:
            await self._ready(service)
        self._warn()
        self._receivers = {channel.start() for channel in self.channels}

    async def _declare(self) -> None:
        """Every queue exists before the first message is published, and every broker in use is connected."""
        consumers = [consumer for service in self.services for consumer in service.consumers]
        producers = [producer for service in self.services for producer in service.producers]
        exchanges = {consumer.exchange for consumer in consumers} | {producer.exchange for producer in producers}
        exchanges |= {exchange for consumer in consumers for exchange in consumer.options.to}
        in_use = {self.brokers.route(exchange).name for exchange in exchanges}
        queues = {(consumer.exchange, consumer.id) for consumer in consumers}
        for exchange, settings in self.settings.exchanges.items():
            if self.settings.broker_of(exchange) in in_use:
                queues |= {(exchange, id) for id in settings.requires}
        for queue in sorted(queues):
            declare = methodcaller("declare", *queue)
            await self.brokers.route(queue[0]).call(declare)
        for exchange in sorted(exchanges):
            await self.brokers.route(exchange).connected()

    async def _ready(self, service: Service) -> None:
        """Open the service's lifespan() and make its handlers ready to be called."""
        injected = None
        if service.lifespan:
            injected = await self._stack.enter_async_context(service.lifespan(*self._lifespan_settings(service)))
        for declared in service.consumers:
            options = self.settings.consumer_options(declared.exchange, declared.id, declared.options)
            consumer = declared.with_options(options)
            step = Step(consumer, self.brokers.publish, injected or {})
            self.channels.append(Channel(step, self.brokers.route(consumer.exchange), self._observe))
        for producer in service.producers:
            self.feeds.append(Feed(producer, self.brokers, injected or {}, self._until_idle, self._wait))

    def _lifespan_settings(self, service: Service) -> list[Any]:
        """What lifespan() gets: the service's section of config.yml as the type its parameter is annotated with."""
        assert service.lifespan
        section = self.settings.services.get(service.name, {})
        parameters = list(inspect.signature(service.lifespan).parameters)
        if not parameters:
            return []
        kind = get_type_hints(service.lifespan).get(parameters[0], dict)
        try:
            return [msgspec.convert(section, kind)]
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"services.{service.name} in the configuration: {error}") from error

    def _warn(self) -> None:
        """Say which of the model's promises do not hold here."""
        for broker in self.brokers.opened.values():
            if not broker.durable:
                what = "keeps messages in this process only: they end with it"
                log.warning("broker %s (%s) %s", broker.name, broker.address, what)
        heard = {channel.exchange for channel in self.channels}
        heard |= {name for name, exchange in self.settings.exchanges.items() if exchange.requires or exchange.optional}
        for channel in self.channels:
            for exchange in set(channel.step.consumer.options.to) - heard:
                what = "nothing here consumes: unless another service does, its messages are retried, then buried"
                log.warning("%s puts out to %r, which %s", channel.name, exchange, what)

    async def finished(self) -> None:
        """Wait until all producers are exhausted and, with until_idle, all queues are empty.

        Without until_idle it returns only if there is no consumer. Raises what ended a producer
        or consumer for good.
        """
        feeds = [asyncio.create_task(feed.run()) for feed in self.feeds]
        idle = asyncio.create_task(self._idle_after(feeds)) if self._until_idle else None
        self._tasks += [*feeds, *([idle] if idle else [])]
        pending = self._receivers | set(self._tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            if idle in done:
                return

    async def _idle_after(self, feeds: Sequence[asyncio.Task[None]]) -> None:
        if feeds:
            await asyncio.wait(feeds)
        await self.idle()

    async def idle(self) -> None:
        """Wait until every queue consumed here is empty and nothing is in hand."""
        quiet = 0
        while quiet < 2:  # a message may be on its way while the queue is already empty
            received = self._received()
            busy = await self._busy()
            quiet = 0 if busy or received != self._received() else quiet + 1
            await asyncio.sleep(IDLE_SECONDS)

    def _received(self) -> int:
        return sum(channel.counts.received for channel in self.channels)

    async def _busy(self) -> bool:
        for channel in self.channels:
            if channel.held or await channel.depth():
                return True
        return False

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drain: stop producers and receiving, finish what runs, put back the rest, let go of everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(channel.drain(self._grace) for channel in self.channels))
        try:
            await self._stack.aclose()
        finally:
            await self.brokers.close()
