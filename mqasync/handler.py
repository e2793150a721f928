"""Consumers and producers as users declare them: Binding and Source, as data; nothing here connects or runs.

A decorated function can still be called as the plain coroutine function: `await enrich({...})` in a test
touches no broker.
"""

from __future__ import annotations

import copy
import inspect
import pkgutil
from collections.abc import Callable
from functools import update_wrapper
from typing import Annotated, Any, Generic, ParamSpec, Self, TypeVar

import msgspec

from .duration import rate, seconds
from .errors import ConfigurationError
from .transport import check_name

P = ParamSpec("P")
R = TypeVar("R")

CONCURRENCY = 30  # handlers that run concurrently where a consumer does not say (docs/performance.md)


class ConsumerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a consumer: the decorator sets them, config.yml overrides them. Times are in seconds.

    `to`: exchanges to which the handler's outputs are published. `concurrency`: how many handlers run concurrently
    (default 30; 1 for batches). `prefetch`: messages in flight (default 60, or else twice what can run concurrently;
    both were chosen by measurement, docs/performance.md).
    `timeout`: limit for one run of the handler. `retries`: attempts after the first: 5 retries are up to 6 attempts.
    `backoff`: longest wait before the first retry, doubled for each further one.
    `max_backoff`: longest wait before any retry.
    `batch_size`: for `list[T]` handlers, how many messages at most.
    `batch_wait`: for `list[T]` handlers, how long the first message waits for others.
    `dedup`: how long the ids of handled messages are remembered; duplicates are not handled again
    (docs/delivery.md). `ordered`: "key" handles the messages of one key one at a time, in the order in which they
    arrived, and those of other keys concurrently (docs/delivery.md).
    `max_age`: messages that were published longer ago are not handled, but dead-lettered as "expired".
    `rate`: how many handlers may begin in a period, in each process: "4/m" is 4 a minute.
    `reject_on`: exceptions after which a message is dead-lettered immediately, without a retry.
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
    max_age: float | None = None
    rate: str | None = None
    reject_on: tuple[type[Exception], ...] = ()


def options(given: dict[str, Any], base: ConsumerOptions | None = None) -> ConsumerOptions:
    """`base` with the `given` values checked and replaced; raises ConfigurationError, quoting the value."""
    values = msgspec.structs.asdict(base or ConsumerOptions()) | given
    to = values["to"]
    if not isinstance(to, str | list | tuple):
        raise ConfigurationError(f"to is {to!r}; it takes the name of an exchange, or a list of names")
    values["to"] = tuple(check_name("exchange", name) for name in ([to] if isinstance(to, str) else to))
    for name in ("timeout", "backoff", "max_backoff", "batch_wait", "dedup", "max_age"):
        if values[name] is not None:
            values[name] = seconds(values[name])
    for name in ("dedup", "max_age"):
        if values[name] == 0:
            raise ConfigurationError(f"{name} is {given[name]!r}; it takes a duration of more than 0, such as 1h")
    if values["rate"] is not None:
        rate(values["rate"])
    some = values["reject_on"]
    values["reject_on"] = tuple(map(_exception, some if isinstance(some, list | tuple) else [some]))
    if values["ordered"] not in (None, "key"):
        raise ConfigurationError(f"ordered is {values['ordered']!r}; it takes 'key', or nothing at all")
    for name, least in (("concurrency", 1), ("prefetch", 1), ("retries", 0), ("batch_size", 1)):
        try:
            values[name] = msgspec.convert(values[name], Annotated[int, msgspec.Meta(ge=least)] | None, strict=False)
        except msgspec.ValidationError:
            problem = f"{name} is {values[name]!r}; it takes a whole number of at least {least}"
            raise ConfigurationError(problem) from None
    return ConsumerOptions(**values)


def _exception(given: Any) -> type[Exception]:
    """The class, or the one with that name: `ValueError`, or with its module, `httpx.HTTPStatusError`."""
    found = given
    if isinstance(given, str):
        try:
            found = pkgutil.resolve_name(given if "." in given else f"builtins.{given}")
        except (ValueError, ImportError, AttributeError) as error:
            raise ConfigurationError(f"reject_on names {given!r}, which cannot be found: {error}") from error
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    takes = "classes of exceptions, or their names: ValueError, httpx.HTTPStatusError"
    raise ConfigurationError(f"reject_on is {given!r}; it takes {takes}")


class Binding:
    """A handler bound to an exchange and an id: a consumer as data, before anything runs.

    The other keyword arguments are ConsumerOptions. Raises ConfigurationError for an invalid name or value.
    """

    def __init__(self, *, exchange: str, id: str, **given: Any) -> None:
        if unknown := sorted(given.keys() - set(ConsumerOptions.__struct_fields__)):
            known = ", ".join(ConsumerOptions.__struct_fields__)
            raise ConfigurationError(f"{unknown[0]!r} is not an option of a consumer; valid options: {known}")
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
        """Override this to handle one body; outputs are published to the exchanges in `to`."""
        raise NotImplementedError


class Decorated(Generic[P, R]):
    """What a decorator returns: a description of the function `handler`, which can be called like that function."""

    handler: Callable[..., Any]

    def _decorate(self, function: Callable[P, R]) -> None:
        """Describe `function`. Raises ConfigurationError unless it is a coroutine function or async generator."""
        if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            raise ConfigurationError(f"{where(function)} is not a coroutine function: write 'async def'")
        self.handler = function
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function; no broker is touched."""
        result: R = self.handler(*args, **kwargs)
        return result


class Source(Decorated[P, R]):
    """What the `producer` decorator returns."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        exchange: str,
        id: str,
        every: str | float | None = None,
        timezone: str | None = None,
    ) -> None:
        self._decorate(function)
        self.exchange = check_name("exchange", exchange)
        self.id = check_name("id", id)
        self.every = every
        self.timezone = timezone

    def __repr__(self) -> str:
        return f"<producer {self.exchange}/{self.id}>"


def producer(
    *, exchange: str, id: str, every: str | float | None = None, timezone: str | None = None
) -> Callable[[Callable[P, R]], Source[P, R]]:
    """Publish to `exchange` what an async function returns or an async generator yields.

    Without `every` it runs once, until it is exhausted (or for ever). `every` is a duration
    ("10m": now, then again ten minutes after the start of the last run) or a cron expression
    ("0 6 * * *") in local time or that of `timezone` ("Europe/Berlin"); when summer time begins or ends, each of
    its times still comes exactly once. After a failed run it runs again at its next time, or without `every` after a
    pause: give data with a natural key its own id, `Out(body, id=...)`, and duplicates are recognised. Its parameters
    get what `lifespan()` yields, by name.
    """
    return lambda function: Source(function, exchange=exchange, id=id, every=every, timezone=timezone)


def where(function: object) -> str:
    """`name (file, line)` of a function, for error messages."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    place = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
    return f"{getattr(function, '__qualname__', function)!s}{place}"
