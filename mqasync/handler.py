"""What users declare, as data: a Binding of a handler, a Source; nothing here connects or runs by itself.

The decorated object is still the plain coroutine function: `await enrich({...})` in a test
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

CONCURRENCY = 30  # handlers at once where a consumer says nothing (docs/performance.md)


class ConsumerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a consumer works; the decorator sets it, config.yml overrides it. Times in seconds.

    `to`: exchanges for what the handler puts out. `concurrency`: handlers running at once
    (default 30; 1 for batches). `prefetch`: deliveries held (default 60, or else twice what can run at once;
    both were chosen by measurement, docs/performance.md).
    `timeout`: bound on one run of the handler. `retries`: attempts after the first.
    `backoff`: longest wait before the first retry, doubled for each further one.
    `max_backoff`: longest wait before any retry.
    `batch_size`: for `list[T]` handlers, how many messages at most.
    `batch_wait`: for `list[T]` handlers, how long the first message waits for others.
    `dedup`: how long the ids of handled messages are remembered; a repeated one is not handled again
    (docs/delivery.md). `ordered`: "key" handles messages of one key one after another, as they
    came, while those of other keys run beside them (docs/delivery.md).
    `max_age`: what was published longer ago is not handled, but goes to the dead letters as "expired".
    `rate`: so many handlers begin at most, in each process: "4/m" is 4 a minute.
    `reject_on`: exceptions after which a message goes to the dead letters at once, without a retry.
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
    """A handler bound to an exchange and an id: what a consumer is, before anything runs.

    Keyword arguments are those of ConsumerOptions. Raises ConfigurationError for a name or value that cannot be.
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


class Decorated(Generic[P, R]):
    """What a decorator returns: a description that is still callable as the plain function, its `handler`."""

    handler: Callable[..., Any]

    def _decorate(self, function: Callable[P, R]) -> None:
        """Describe this one. Raises ConfigurationError unless it is a coroutine function or async generator."""
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
