"""The public API for users: @consumer, Consumer and Producer, in modules for `mqasync run` or in their own programs.

The modules that do the work are imported when it begins: importing mqasync is quick and has no side effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from .duration import seconds
from .errors import BrokerLost, ConfigurationError
from .handler import Binding, Decorated
from .handlers.outbox import Outbox
from .handlers.step import outgoing
from .message import NaturalKey, Out
from .transport import check_name

if TYPE_CHECKING:
    from .brokers.broker import Brokers

P = ParamSpec("P")
R = TypeVar("R")
Bodies = Iterable[Any] | AsyncIterable[Any]

GRACE = 30.0
"""Seconds that running handlers get to finish at a graceful shutdown."""


class Client:
    """Has brokers inside `async with`, each connected by the first message.

    `config` is the path of a config.yml, `broker` a URL that replaces its default broker.
    """

    def __init__(self, id: str, config: str | None = None, broker: str | None = None) -> None:
        self.id = check_name("id", id)
        self._settings = config, broker
        self._opened: Brokers | None = None

    async def __aenter__(self) -> Self:
        from .config.settings import load_settings
        from .observe.telemetry import traced

        self._opened, _ = traced(load_settings(*self._settings))
        return self

    async def __aexit__(self, *error: object) -> None:
        opened, self._opened = self._opened, None
        if opened:
            await opened.close()

    @property
    def _brokers(self) -> Brokers:
        if self._opened is None:
            raise ConfigurationError(f"{self!r} is not open: use 'async with'")
        return self._opened


class Producer(Client):
    """Publishes to one exchange under one id: `async with Producer(id=..., exchange=...) as p`.

    `config` is the path of a config.yml, `broker` a URL that replaces its default broker.
    """

    def __init__(self, *, exchange: str, id: str, config: str | None = None, broker: str | None = None) -> None:
        super().__init__(id, config, broker)
        self.exchange = check_name("exchange", exchange)

    def __repr__(self) -> str:
        return f"<producer {self.exchange}/{self.id}>"

    async def produce(
        self,
        body: Any,
        *,
        key: NaturalKey | None = None,
        headers: dict[str, str] | None = None,
        id: NaturalKey | None = None,
        priority: int = 0,
        timeout: float | str = 30.0,
    ) -> str:
        """Publish one body and return the message id when the broker has confirmed it.

        Raises Unroutable when no queue is bound to the exchange, BrokerLost when the broker does not confirm within
        `timeout` seconds (it may or may not have the message: publish it again with the same `id`),
        MessageTooLarge, and ConfigurationError for a body that cannot be encoded, or a header that is not text.
        """
        brokers, limit = self._brokers, seconds(timeout)
        out = Out(body, key=key, headers={} if headers is None else headers, id=id, priority=priority)
        message = outgoing(out, self.exchange, self.id)
        try:
            async with asyncio.timeout(limit):
                await brokers.publish(message)
        except TimeoutError:
            address = brokers.route(self.exchange).address
            raise BrokerLost(f"{address} has not confirmed message {message.id} within {limit:g} s") from None
        return message.id

    async def produce_many(self, bodies: Bodies, *, timeout: float | str = 30.0) -> int:
        """Publish each of `bodies`, many at a time, and return their number when the broker has confirmed them all.

        An item can be an Out, which adds key, headers, id or exchange to the body. Raises what `produce` raises, for
        the first one that fails; those before it are confirmed, and some after it may have been published as well.
        """
        brokers, count = self._brokers, 0
        async with Outbox(seconds(timeout)) as outbox:
            async for body in each(bodies):
                await outbox.put(brokers.publish(outgoing(body, self.exchange, self.id)))
                count += 1
        return count


class Consumer(Binding):
    """A handler bound to an exchange and an id: override `process`. Consumers with the same id share a queue.

    The other keyword arguments are ConsumerOptions. Raises ConfigurationError for an invalid name or value.
    """

    async def consume(self, *, config: str | None = None, broker: str | None = None) -> None:
        """Receive and handle messages until this coroutine is cancelled; then drain, requeue the rest and return.

        `config` is the path of a config.yml, `broker` a URL that replaces its default broker.
        """
        from .config.settings import load_settings
        from .service.discovery import Service
        from .service.runner import Runner

        service = Service(type(self).__module__, [self], [], None)
        async with Runner([service], load_settings(config, broker), grace=GRACE) as runner:
            await runner.finished()


class Handler(Decorated[P, R], Consumer):
    """What the `consumer` decorator returns."""

    def __init__(self, function: Callable[P, R], *, exchange: str, id: str, **given: Any) -> None:
        Consumer.__init__(self, exchange=exchange, id=id, **given)
        self._decorate(function)


def consumer(
    *,
    exchange: str,
    id: str,
    to: str | Iterable[str] = (),
    concurrency: int | None = None,
    prefetch: int | None = None,
    timeout: float | str | None = None,
    retries: int = 5,
    backoff: float | str = 1.0,
    max_backoff: float | str = 3600.0,
    batch_size: int = 100,
    batch_wait: float | str = 0.1,
    dedup: float | str | None = None,
    ordered: str | None = None,
    max_age: float | str | None = None,
    rate: str | None = None,
    reject_on: type[Exception] | str | Iterable[type[Exception] | str] = (),
) -> Callable[[Callable[P, R]], Handler[P, R]]:
    """Bind an async function or async generator to the queue (exchange, id); see ConsumerOptions.

    Each process runs 30 handlers concurrently and has 60 messages in flight at most, unless `concurrency` and
    `prefetch` say otherwise.

    The annotation of the first parameter says to what the body is decoded (a dict without one); a second
    parameter annotated `Message` gets the message; the others get what the module's `lifespan()` yields, by name.
    Raises ConfigurationError.
    """
    given = dict(
        to=to, concurrency=concurrency, prefetch=prefetch, timeout=timeout, retries=retries, backoff=backoff,
        max_backoff=max_backoff, batch_size=batch_size, batch_wait=batch_wait, dedup=dedup, ordered=ordered,
        max_age=max_age, rate=rate, reject_on=reject_on,
    )  # fmt: skip
    return lambda function: Handler(function, exchange=exchange, id=id, **given)


async def each(bodies: Bodies) -> AsyncIterator[Any]:
    """The items of an iterable or an async iterable."""
    if isinstance(bodies, AsyncIterable):
        async for body in bodies:
            yield body
    else:
        for body in bodies:
            yield body
