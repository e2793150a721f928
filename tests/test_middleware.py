"""Decorators around handlers: what mqasync reads of a handler and says of it is the handler's, not the decorator's."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

import pytest

from mqasync import Message, consumer
from mqasync.handler import where
from mqasync.handlers.signature import of_consumer
from mqasync.observe.lag import LoopWatch
from mqasync.testing import StartService

Function = Callable[..., Any]


def around(handler: Function) -> Function:
    @wraps(handler)
    async def run(*args: Any, **named: Any) -> Any:
        return await handler(*args, **named)

    return run


def around_generator(handler: Function) -> Function:
    @wraps(handler)
    async def run(*args: Any, **named: Any) -> Any:
        async with aclosing(handler(*args, **named)) as values:
            async for value in values:
                yield value

    return run


def test_the_parameters_and_the_place_of_a_wrapped_handler_are_its_own() -> None:
    @around
    @around
    async def handle(events: list[int], messages: list[Message], pool: object) -> None: ...

    @around_generator
    async def generate(event: dict[str, Any]) -> Any:
        yield event

    signature = of_consumer(handle)
    assert (signature.body, signature.batch, signature.generator) == (int, True, False)
    assert (signature.message, signature.injected) == ("messages", ("pool",))
    assert of_consumer(generate).generator
    line = handle.__wrapped__.__wrapped__.__code__.co_firstlineno  # type: ignore[attr-defined]
    assert where(handle).endswith(f"handle ({__file__}, line {line})")


async def test_a_wrapped_generator_puts_out_what_it_yields(mqasync_service: StartService) -> None:
    @consumer(exchange="E", id="q", to="out")
    @around_generator
    async def twice(n: int) -> Any:
        yield n
        yield n

    service = await mqasync_service(twice)
    await service.publish("E", 1)
    await service.quiet()
    assert service.published("out") == [1, 1]


async def test_of_two_handlers_in_one_decorator_the_one_that_blocks_the_loop_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @consumer(exchange="E", id="slow")
    @around
    async def slow(event: dict[str, Any]) -> None:
        time.sleep(1.5)  # noqa: ASYNC251, that is the fault

    @consumer(exchange="E", id="fast")
    @around
    async def fast(event: dict[str, Any]) -> None: ...

    with LoopWatch([slow.handler, fast.handler]):
        await slow({})
        await asyncio.sleep(0.3)
    (line,) = [record.getMessage() for record in caplog.records if "has been blocked" in record.getMessage()]
    assert f"by {where(slow.handler)}" in line
