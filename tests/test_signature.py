"""What a handler's parameters ask for: the body, the message, and what lifespan() yields."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

import mqasync
from mqasync import ConfigurationError, Out, consumer
from mqasync.handlers.signature import of_consumer, of_producer
from mqasync.handlers.step import arguments
from mqasync.testing import run_service

if TYPE_CHECKING:
    from nowhere import Database, Message, Nothing  # type: ignore[import-not-found]

NONE: Any = None
Count = Annotated[int, msgspec.Meta(ge=0)]


async def imported_for_type_checkers(body: dict[str, Any], message: Message, db: Database | None) -> None: ...


async def message_with_a_default(body: dict[str, Any], message: mqasync.Message = NONE) -> None: ...


async def optional_message(body: dict[str, Any], message: mqasync.Message | None = None) -> None: ...


async def annotated_message(body: dict[str, Any], message: Annotated[mqasync.Message, "the envelope"]) -> None: ...


async def batch(bodies: list[Count], message: list[mqasync.Message] | None = None) -> None: ...


async def everything(
    body: Count, message: mqasync.Message, db: Database, cache: Nothing = None, n: int = 7
) -> None: ...


@pytest.mark.parametrize(
    ("handler", "body", "injected", "optional"),
    [
        (imported_for_type_checkers, dict[str, Any], ("db",), ()),
        (message_with_a_default, dict[str, Any], (), ()),
        (optional_message, dict[str, Any], (), ()),
        (annotated_message, dict[str, Any], (), ()),
        (batch, Count, (), ()),
        (everything, Count, ("db",), ("cache", "n")),
    ],
)
def test_a_message_is_known_by_its_annotation_and_the_rest_is_injected(
    handler: Callable[..., Any], body: Any, injected: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    signature = of_consumer(handler)
    assert (signature.message, signature.body) == ("message", body)
    assert (signature.injected, signature.optional) == (injected, optional)


async def unknown_return(body: dict[str, Any]) -> Nothing: ...


async def half_an_annotation(body: Any) -> None: ...


half_an_annotation.__annotations__["body"] = "dict["


async def annotated_batch(bodies: Annotated[list[int], msgspec.Meta(max_length=3)]) -> None: ...


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (unknown_return, "an annotation cannot be read: name 'Nothing' is not defined"),
        (half_an_annotation, "an annotation cannot be read: "),
        (annotated_batch, "annotate the items of a batch"),
    ],
)
def test_a_parameter_list_that_cannot_be_is_a_configuration_error(handler: Callable[..., Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{handler.__name__} \(.*, line \d+\): {problem}"):
        of_consumer(handler)


def test_a_producers_parameters_need_not_be_readable_but_what_it_yields_must() -> None:
    async def feed(db: Database, limit: Nothing = None) -> AsyncIterator[Out]:
        yield Out({})

    async def unknown() -> Nothing: ...

    signature = of_producer(feed)
    assert (signature.injected, signature.optional) == (("db",), ("limit",))
    assert arguments(feed, signature, {"db": 1, "other": 2}) == {"db": 1}
    assert arguments(feed, signature, {"db": 1, "limit": 2}) == {"db": 1, "limit": 2}
    with pytest.raises(ConfigurationError, match="an annotation cannot be read: name 'Nothing'"):
        of_producer(unknown)


async def test_a_default_is_replaced_by_what_lifespan_yields_and_constraints_are_checked() -> None:
    """Given handlers with defaults, and a lifespan() that yields one of them."""
    called: list[tuple[Any, ...]] = []

    @consumer(exchange="numbers", id="all")
    async def handler(body: Count, message: mqasync.Message = NONE, db: Database = "none", limit: int = 7) -> None:
        called.append((body, message.id, db, limit))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, Any]]:
        yield {"db": "the database"}

    module = ModuleType("with_defaults")
    module.__dict__.update(handler=handler, lifespan=lifespan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "with_defaults", module)
        async with run_service("with_defaults") as service:
            good = await service.publish("numbers", 3)
            await service.publish("numbers", -1)
            await service.quiet()
    assert called == [(3, good, "the database", 7)]
    assert [letter.headers["dead-reason"] for letter in service.dead_lettered] == ["InvalidMessage"]
