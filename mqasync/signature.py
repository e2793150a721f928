"""What a handler's parameters ask for, read from its annotations; nothing is called here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from .errors import ConfigurationError
from .handler import Consumer, where
from .message import Message


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """`body` is the type to decode, of one message or, with `batch`, of each one in a list.

    `message` names the parameter that gets the Message (or list of them), `injected` those that
    get what lifespan() yields.
    """

    body: Any = dict
    batch: bool = False
    message: str | None = None
    injected: tuple[str, ...] = ()
    generator: bool = False


def of_consumer(function: Callable[..., Any]) -> Signature:
    """The signature of a consumer's handler. Raises ConfigurationError for a parameter list that cannot be."""
    if getattr(function, "__func__", None) is Consumer.process:
        raise ConfigurationError(
            f"{getattr(function, '__self__', '')!r} does nothing: write 'async def process(self, message)'"
        )
    if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        raise ConfigurationError(f"{where(function)} is not a coroutine function: write 'async def'")
    names, hints = _parameters(function)
    if not names:
        raise ConfigurationError(f"{where(function)} takes no parameter: its first one gets the message's body")
    body = hints.get(names[0], dict)
    batch = get_origin(body) is list
    if body is Message or (batch and get_args(body)[0] is Message):
        raise ConfigurationError(f"{where(function)}: the first parameter is the body; make Message the second one")
    wanted: Any = list[Message] if batch else Message
    messages = [name for name in names[1:] if hints.get(name) in (Message, list[Message])]
    if len(messages) > 1 or (messages and hints[messages[0]] != wanted):
        kind = "list[Message], as the body is a list" if batch else "Message"
        raise ConfigurationError(f"{where(function)}: exactly one parameter can be annotated {kind}")
    return Signature(
        body=get_args(body)[0] if batch else Any if body is inspect.Parameter.empty else body,
        batch=batch,
        message=messages[0] if messages else None,
        injected=tuple(name for name in names[1:] if name not in messages),
        generator=inspect.isasyncgenfunction(function),
    )


def of_producer(function: Callable[..., Any]) -> Signature:
    """The signature of a producer: every parameter is injected. Raises ConfigurationError."""
    names, _ = _parameters(function)
    return Signature(injected=tuple(names), generator=inspect.isasyncgenfunction(function))


def _parameters(function: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    """The names of the parameters that must be given, in order, and the annotations."""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError) as error:
        raise ConfigurationError(f"{where(function)}: an annotation cannot be read: {error}") from error
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(
                f"{where(function)}: parameter {parameter} must be a plain named one"
                " (a decorator needs functools.wraps)"
            )
    first = next(iter(parameters), None)
    return [p.name for p in parameters if p is first or p.default is p.empty], hints
