"""Step: decodes messages, calls one handler and publishes its outputs; settling is not done here."""

from __future__ import annotations

import asyncio
import reprlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from ..errors import ConfigurationError
from ..handler import Binding, where
from ..message import HIGHEST, Message, NaturalKey, Out, new_id, output_id
from ..transport import check_name
from .codec import decoder, encode
from .outbox import Outbox
from .reply import reply_to
from .signature import Signature, of_consumer

SEVERAL = (list, tuple)

Publish = Callable[[Message], Awaitable[None]]
Run = Callable[[Sequence[Message]], Awaitable[Any]]
"""Step.run, or what is wrapped around it."""
Around = Callable[[Binding, Run], Run]
"""A decorator of Step.run: it measures or traces every message or batch of a consumer, and returns its result."""


class Step:
    """A consumer's handler, ready to be called: with its decoder, its arguments, and `publish` for its outputs.

    `publish` returns when the broker has confirmed the message. `injected` is what lifespan() yielded.
    Raises ConfigurationError for a handler with invalid or missing parameters.
    """

    def __init__(self, consumer: Binding, publish: Publish, injected: Mapping[str, Any]) -> None:
        self.consumer = consumer
        self.signature = of_consumer(consumer.handler)
        if self.signature.batch and consumer.options.ordered:
            raise ConfigurationError(
                f"{where(consumer.handler)} takes a list, and ordered={consumer.options.ordered!r} is for handlers of"
                " single messages; a list with concurrency=1, the default, keeps the order anyway"
            )
        self.outputs: Counter[str] = Counter()
        self._decode = decoder(self.signature.body)
        self._publish = publish
        self._named = arguments(consumer.handler, self.signature, injected)

    async def run(self, messages: Sequence[Message]) -> Any:
        """Handle one message, or one batch, and return when all outputs are confirmed.

        Returns the reply for a request: what the handler returned, or a list of what it yielded.
        Raises InvalidMessage for a body that does not decode, TimeoutError after the consumer's
        `timeout`, and whatever the handler or a publish raises.
        """
        bodies = [self._decode(message.body) for message in messages]
        timeout = self.consumer.options.timeout
        if timeout is None:
            return await self._call(bodies, messages)
        try:
            async with asyncio.timeout(timeout) as limit:
                return await self._call(bodies, messages)
        except TimeoutError as error:
            if limit.expired():
                raise TimeoutError(f"the handler took longer than its timeout of {timeout:g} s") from error
            raise

    async def _call(self, bodies: list[Any], messages: Sequence[Message]) -> Any:
        body: Any = bodies if self.signature.batch else bodies[0]
        named = self._named
        if self.signature.message:
            named = {**named, self.signature.message: list(messages) if self.signature.batch else messages[0]}
        if self.signature.generator:
            return await self._generate(self.consumer.handler(body, **named), messages)
        value = await self.consumer.handler(body, **named)
        if value is not None:
            for publishing in [self._publish(output) for output in self._outputs(value, *common(messages), 0)]:
                await publishing
        return value

    async def _generate(self, generator: AsyncGenerator[Any, None], messages: Sequence[Message]) -> list[Any]:
        """Publish what it yields, many at a time; for a request, return a list of it."""
        asked = any(map(reply_to, messages))
        yielded, origin, priority = [], *common(messages)
        async with Outbox() as outbox, aclosing(generator) as values:
            position = 0
            async for value in values:
                for output in self._outputs(value, origin, priority, position):
                    await outbox.put(self._publish(output))
                position += 1
                if asked:
                    yielded.append(value.body if isinstance(value, Out) else value)
        return yielded

    def _outputs(self, value: Any, origin: str, priority: int, position: int) -> Iterator[Message]:
        """The messages for one value; their ids are derived, so that another attempt gives the same ids."""
        if value is None:
            return
        exchanges = self.consumer.options.to
        if isinstance(value, Out):
            exchanges = exchanges if value.exchange is None else (check_name("exchange", value.exchange),)
            if not exchanges:
                what = f"{where(self.consumer.handler)} returned or yielded {value!r:.200}"
                raise ConfigurationError(f"{what} without an exchange; name one in the Out or in `to`")
        for exchange in exchanges:
            id = partial(output_id, origin, exchange, self.consumer.id, position)
            message = outgoing(value, exchange, self.consumer.id, id, priority)
            self.outputs[exchange] += 1
            yield message


def common(messages: Sequence[Message]) -> tuple[str, int]:
    """From what the ids of all outputs of these messages are derived, and the priority of the outputs."""
    return "/".join(message.id for message in messages), max(message.priority for message in messages)


def outgoing(value: Any, exchange: str, producer: str, id: Callable[[], str] = new_id, priority: int = 0) -> Message:
    """The message for an output: a body, or an Out. `id` and `priority` are used where the Out does not set them.

    It is bytes and text, the same on every broker. Raises ConfigurationError for anything else.
    """
    out = value if isinstance(value, Out) else Out(value)
    inner = out.body[0] if isinstance(out.body, SEVERAL) and out.body else out.body
    if isinstance(inner, Out):
        raise ConfigurationError("an Out cannot be inside another Out or in a list: yield each of them by itself")
    if not isinstance(out.headers, dict):
        raise ConfigurationError(f"headers are {reprlib.repr(out.headers)}; they take a dict of text by text")
    if out.priority is not None and not (type(out.priority) is int and 0 <= out.priority <= HIGHEST):
        raise ConfigurationError(f"priority is {out.priority!r}; it takes a whole number from 0 to {HIGHEST}")
    return Message(
        body=encode(out.body),
        exchange=exchange if out.exchange is None else check_name("exchange", out.exchange),
        id=id() if out.id is None or out.id == "" else text("id", out.id, NaturalKey),
        producer=producer,
        headers=texts(out.headers) if out.headers else {},
        key=None if out.key is None else text("key", out.key, NaturalKey),
        priority=priority if out.priority is None else out.priority,
    )


def surrounded(step: Step, around: Sequence[Around]) -> Run:
    """Step.run with each of `around` wrapped around it, the last one outermost."""
    run: Run = step.run
    for wrap in around:
        run = wrap(step.consumer, run)
    return run


def arguments(function: Any, signature: Signature, injected: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a signature from what lifespan() yielded. Raises ConfigurationError if one is missing."""
    for name in signature.injected:
        if name not in injected:
            choices = ", ".join(injected) or "nothing, as the module has no lifespan()"
            raise ConfigurationError(f"{where(function)} wants {name!r}; lifespan() yields: {choices}")
    return {name: injected[name] for name in (*signature.injected, *signature.optional) if name in injected}


def texts(headers: dict[Any, Any]) -> dict[str, str]:
    """A copy of headers, which must map text to text. Raises ConfigurationError."""
    return {text("a header's name", name): text(f"header {name!r}", own) for name, own in headers.items()}


def text(what: str, given: Any, kinds: Any = str) -> str:
    """`given` as a plain str, if it is one or of one of `kinds`. Raises ConfigurationError."""
    if isinstance(given, str):
        return str.__str__(given)  # a subclass would be encoded otherwise, or not at all
    if isinstance(given, kinds):
        return str(given)
    also = "" if kinds is str else ", a UUID or an IP address"
    raise ConfigurationError(f"{what} is {reprlib.repr(given)}; it takes text{also}")
