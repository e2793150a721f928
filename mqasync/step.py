"""Step: messages through one handler, decode, call, publish what it puts out; settling is not done here."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from .codec import decoder, encode
from .errors import ConfigurationError
from .handler import Consumer, where
from .message import Message, Out, new_id, output_id
from .outbox import Outbox
from .reply import reply_to
from .signature import Signature, of_consumer
from .transport import check_name

Publish = Callable[[Message], Awaitable[None]]
Run = Callable[[Sequence[Message]], Awaitable[Any]]
"""Step.run, or what is wrapped around it."""
Around = Callable[[Consumer, Run], Run]
"""A decorator of Step.run: it measures or traces a consumer's every message or batch, and passes on what it returns."""


class Step:
    """A consumer's handler made ready: its decoder, its arguments, and the way out for its outputs.

    `publish` returns when the broker has the message. `injected` is what lifespan() yielded.
    Raises ConfigurationError for a handler whose parameters cannot be served.
    """

    def __init__(self, consumer: Consumer, publish: Publish, injected: Mapping[str, Any]) -> None:
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
        """Handle one message, or one batch, and return when everything it put out is confirmed.

        What is returned is for who asked for a reply: what the handler returned, or a list of what it yielded.
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
        for publishing in [self._publish(output) for output in self._outputs(value, messages, 0)]:
            await publishing
        return value

    async def _generate(self, generator: AsyncGenerator[Any, None], messages: Sequence[Message]) -> list[Any]:
        """Publish what it yields, many at a time; who asked for a reply gets it all in one."""
        asked = any(map(reply_to, messages))
        yielded = []
        async with Outbox() as outbox, aclosing(generator) as values:
            position = 0
            async for value in values:
                for output in self._outputs(value, messages, position):
                    await outbox.put(self._publish(output))
                position += 1
                if asked:
                    yielded.append(value.body if isinstance(value, Out) else value)
        return yielded

    def _outputs(self, value: Any, messages: Sequence[Message], position: int) -> Iterator[Message]:
        """The messages for one value; their ids are derived, so that a re-run repeats them."""
        if value is None:
            return
        out = value if isinstance(value, Out) else Out(value)
        exchanges = (check_name("exchange", out.exchange),) if out.exchange else self.consumer.options.to
        if not exchanges and value is out:
            raise ConfigurationError(f"{where(self.consumer.handler)} put out {out!r:.200} and no exchange is named")
        body = encode(out.body) if exchanges else b""
        origin = "/".join(message.id for message in messages)
        for exchange in exchanges:
            self.outputs[exchange] += 1
            yield Message(
                body=body,
                exchange=exchange,
                id=out.id or output_id(origin, exchange, self.consumer.id, position),
                producer=self.consumer.id,
                headers=out.headers,
                key=out.key,
            )


def outgoing(value: Any, exchange: str, producer: str) -> Message:
    """The message for what a producer puts out: a body, or an Out. Raises ConfigurationError."""
    out = value if isinstance(value, Out) else Out(value)
    return Message(
        body=encode(out.body),
        exchange=check_name("exchange", out.exchange) if out.exchange else exchange,
        id=out.id or new_id(),
        producer=producer,
        headers=out.headers,
        key=out.key,
    )


def surrounded(step: Step, around: Sequence[Around]) -> Run:
    """Step.run with each of `around` wrapped around it, the last one outermost."""
    run: Run = step.run
    for wrap in around:
        run = wrap(step.consumer, run)
    return run


def arguments(function: Any, signature: Signature, injected: Mapping[str, Any]) -> dict[str, Any]:
    """What a signature asks for of what lifespan() yielded. Raises ConfigurationError for a missing one."""
    for name in signature.injected:
        if name not in injected:
            choices = ", ".join(injected) or "nothing, as the module has no lifespan()"
            raise ConfigurationError(f"{where(function)} wants {name!r}; lifespan() yields: {choices}")
    return {name: injected[name] for name in (*signature.injected, *signature.optional) if name in injected}
