"""Consumer, Producer and their decorators: they only describe; nothing here connects or runs by itself.

The decorated object is still the plain coroutine function: `await enrich({...})` in a test
touches no broker.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterable, Callable, Iterable
from functools import update_wrapper
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Generic, ParamSpec, Self, TypeVar

import msgspec

from .duration import seconds
from .errors import ConfigurationError
from .message import NaturalKey
from .transport import check_name

if TYPE_CHECKING:
    from .client import Client

P = ParamSpec("P")
R = TypeVar("R")


class ConsumerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a consumer works; the decorator sets it, config.yml overrides it. Times in seconds.

    `to`: exchanges for what the handler puts out. `concurrency`: handlers running at once
    (default 10; 1 for batches). `prefetch`: deliveries held (default twice what can run).
    `timeout`: bound on one run of the handler. `retries`: attempts after the first.
    `backoff`, `max_backoff`: longest wait before the first retry, doubled for each further one, up to this.
    `batch_size`, `batch_wait`: for `list[T]` handlers, how many and how long to wait for them.
    `dedup`: how long the ids of handled messages are remembered; a repeated one is not handled again
    (docs/delivery.md). `ordered`: "key" handles messages of one key one after another, as they
    came, while those of other keys run beside them (docs/delivery.md).
    """

    to: tuple[str, ...] = ()
    concurrency: int | None = None
    prefetch: int | None = None
    timeout: float | None = None
    retries: int = 5
    backoff: float = 1.0
    max_backoff: float = 3600.0
    batch_size: int = 100
    batch_wait: float = 0.1
    dedup: float | None = None
    ordered: str | None = None


def options(given: dict[str, Any], base: ConsumerOptions | None = None) -> ConsumerOptions:
    """`base` with the `given` values checked and replaced; raises ConfigurationError, quoting the value."""
    values = msgspec.structs.asdict(base or ConsumerOptions()) | given
    to = values["to"]
    if not isinstance(to, str | list | tuple):
        raise ConfigurationError(f"to is {to!r}; it takes the name of an exchange, or a list of names")
    values["to"] = tuple(check_name("exchange", name) for name in ([to] if isinstance(to, str) else to))
    for name in ("timeout", "backoff", "max_backoff", "batch_wait", "dedup"):
        if values[name] is not None:
            values[name] = seconds(values[name])
    if values["dedup"] == 0:
        raise ConfigurationError(f"dedup is {given['dedup']!r}; it takes a duration of more than 0, such as 1h")
    if values["ordered"] not in (None, "key"):
        raise ConfigurationError(f"ordered is {values['ordered']!r}; it takes 'key', or nothing at all")
    for name, least in (("concurrency", 1), ("prefetch", 1), ("retries", 0), ("batch_size", 1)):
        try:
            values[name] = msgspec.convert(values[name], Annotated[int, msgspec.Meta(ge=least)] | None, strict=False)
        except msgspec.ValidationError:
            problem = f"{name} is {values[name]!r}; it takes a whole number of at least {least}"
            raise ConfigurationError(problem) from None
    return ConsumerOptions(**values)


class Consumer:
    """A handler bound to an exchange and an id; consumers of one id share its queue.

    Subclass it and override `process`, or use the `consumer` decorator. Keyword arguments are
    those of ConsumerOptions. Raises ConfigurationError for a name or value that cannot be.
    """

    def __init__(self, *, exchange: str, id: str, **given: Any) -> None:
        if unknown := sorted(given.keys() - set(ConsumerOptions.__struct_fields__)):
            known = ", ".join(ConsumerOptions.__struct_fields__)
            raise ConfigurationError(f"{unknown[0]!r} is not an option of a consumer: {known}")
        self.exchange = check_name("exchange", exchange)
        self.id = check_name("id", id)
        self.options = options(given)
        self.handler: Callable[..., Any] = self.process

    def __repr__(self) -> str:
        return f"<consumer {self.exchange}/{self.id}>"

    def with_options(self, options: ConsumerOptions) -> Self:
        """The same consumer with other options; this one stays as it is."""
        other = copy.copy(self)
        other.options = options
        return other

    async def process(self, message: Any) -> Any:
        """Handle one body; what it returns or yields is published to the exchanges in `to`."""
        raise NotImplementedError

    async def consume(self, *, config: str | None = None, broker: str | None = None) -> None:
        """Receive and handle until this coroutine is cancelled; then drain, put back the rest and return.

        `config` is the path of a config.yml, `broker` a URL that replaces its default broker.
        """
        from .client import consume

        await consume(self, config, broker)


class Handler(Consumer, Generic[P, R]):
    """What the `consumer` decorator returns: a Consumer that is still callable as the plain function."""

    def __init__(self, function: Callable[P, R], *, exchange: str, id: str, **given: Any) -> None:
        if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            raise ConfigurationError(f"{where(function)} is not a coroutine function: write 'async def'")
        super().__init__(exchange=exchange, id=id, **given)
        self.handler = function
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function; no broker is touched."""
        result: R = self.handler(*args, **kwargs)
        return result


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
) -> Callable[[Callable[P, R]], Handler[P, R]]:
    """Bind an async function or async generator to the queue (exchange, id); see ConsumerOptions.

    The first parameter's annotation says how the body is decoded (dict without one); a second
    one annotated `Message` gets the message; others get by name what the module's `lifespan()`
    yields. Raises ConfigurationError.
    """
    given = dict(
        to=to, concurrency=concurrency, prefetch=prefetch, timeout=timeout, retries=retries, backoff=backoff,
        max_backoff=max_backoff, batch_size=batch_size, batch_wait=batch_wait, dedup=dedup, ordered=ordered,
    )  # fmt: skip
    return lambda function: Handler(function, exchange=exchange, id=id, **given)


class Producer:
    """Publishes to one exchange under one id: `async with Producer(id=..., exchange=...) as p`.

    `config` is the path of a config.yml, `broker` a URL that replaces its default broker.
    """

    def __init__(self, *, exchange: str, id: str, config: str | None = None, broker: str | None = None) -> None:
        self.exchange = check_name("exchange", exchange)
        self.id = check_name("id", id)
        self._config, self._broker = config, broker
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"<producer {self.exchange}/{self.id}>"

    async def __aenter__(self) -> Self:
        from .client import Client

        self._client = await Client.open(self._config, self._broker)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client:
            await self._client.close()
        self._client = None

    async def produce(
        self,
        body: Any,
        *,
        key: NaturalKey | None = None,
        headers: dict[str, str] | None = None,
        id: NaturalKey | None = None,
        timeout: float | str = 30.0,
    ) -> str:
        """Publish one body and return the message id once the broker has it safely.

        Raises Unroutable when no queue is bound to the exchange, BrokerLost when the broker stays
        away for `timeout` seconds (the message may or may not be there: repeat it with its `id`),
        MessageTooLarge, and ConfigurationError for a body that cannot be encoded, or what is no text.
        """
        if self._client is None:
            raise ConfigurationError(f"{self!r} is not open: use 'async with'")
        return await self._client.produce(self, body, key, headers, id, seconds(timeout))

    async def produce_many(self, bodies: Iterable[Any] | AsyncIterable[Any], *, timeout: float | str = 30.0) -> int:
        """Publish each of `bodies`, many at a time, and return their number once the broker has them all safely.

        An item that is an Out says more than the body: key, headers, id, exchange. Raises what `produce` raises,
        for the first one that fails; those before it are safe, and some after it may be there as well.
        """
        if self._client is None:
            raise ConfigurationError(f"{self!r} is not open: use 'async with'")
        return await self._client.produce_many(self, bodies, seconds(timeout))


class Source(Producer, Generic[P, R]):
    """What the `producer` decorator returns: a Producer that is still callable as the plain function."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        exchange: str,
        id: str,
        every: str | float | None = None,
        timezone: str | None = None,
    ) -> None:
        if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            raise ConfigurationError(f"{where(function)} is not a coroutine function: write 'async def'")
        super().__init__(exchange=exchange, id=id)
        self.handler: Callable[..., Any] = function
        self.every = every
        self.timezone = timezone
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function; no broker is touched."""
        result: R = self.handler(*args, **kwargs)
        return result


def producer(
    *, exchange: str, id: str, every: str | float | None = None, timezone: str | None = None
) -> Callable[[Callable[P, R]], Source[P, R]]:
    """Publish to `exchange` what an async function returns or an async generator yields.

    Without `every` it runs once, until it is exhausted (or for ever). `every` is a duration
    ("10m": now, then again ten minutes after the start of the last run) or a cron expression
    ("0 6 * * *"), local time or that of `timezone` ("Europe/Berlin"); over a change of summer time each of its
    times comes exactly once. A run that fails begins anew at its next time, or without `every` after a pause: give what
    has a natural key an id of its own, `Out(body, id=...)`, and repetitions are recognised. Its parameters
    get by name what `lifespan()` yields.
    """
    return lambda function: Source(function, exchange=exchange, id=id, every=every, timezone=timezone)


def where(function: object) -> str:
    """`name (file, line)` of a function, for error messages."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    place = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
    return f"{getattr(function, '__qualname__', function)!s}{place}"
