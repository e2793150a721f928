"""What the parameters of a handler get, by its annotations; nothing is called here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from ..errors import ConfigurationError
from ..handler import Binding, where
from ..message import Message


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """`body` is the type to decode the body to, or with `batch` each body in a list.

    `message` names the parameter that gets the Message (or a list of them), `injected` those that
    get what lifespan() yields, `optional` those with a default, which get it if lifespan() yields it.
    """

    body: Any = dict
    batch: bool = False
    message: str | None = None
    injected: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    generator: bool = False


def of_consumer(function: Callable[..., Any]) -> Signature:
    """The signature of a consumer's handler. Raises ConfigurationError for invalid parameters.

    The annotations of the body and of the return value must be readable at run time; those of other parameters
    need not be (they may be imported under TYPE_CHECKING), and `Message` is known there.
    """
    if getattr(function, "__func__", None) is Binding.process:
        raise ConfigurationError(
            f"{getattr(function, '__self__', '')!r} does nothing: write 'async def process(self, message)'"
        )
    if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        raise ConfigurationError(f"{where(function)} is not a coroutine function: write 'async def'")
    parameters = _parameters(function)
    if not parameters:
        raise ConfigurationError(f"{where(function)} takes no parameter: its first one gets the message's body")
    first, *others = parameters
    body = hint_of(function, first.name, dict)
    hint_of(function, "return")
    batch = get_origin(body) is list
    if _bare(get_args(body)[0] if batch else body) is Message:
        raise ConfigurationError(f"{where(function)}: the first parameter is the body; make Message the second one")
    if get_origin(body) is Annotated and get_origin(body.__origin__) is list:
        raise ConfigurationError(f"{where(function)}: annotate the items of a batch: list[Annotated[...]]")
    hints = {parameter.name: _hint_or_none(function, parameter.name) for parameter in others}
    messages = [name for name, hint in hints.items() if hint in (Message, list[Message])]
    wanted: Any = list[Message] if batch else Message
    if len(messages) > 1 or (messages and hints[messages[0]] != wanted):
        kind = "list[Message], as the body is a list" if batch else "Message"
        raise ConfigurationError(f"{where(function)}: exactly one parameter can be annotated {kind}")
    injected, optional = _injected([parameter for parameter in others if parameter.name not in messages])
    return Signature(
        body=get_args(body)[0] if batch else body,
        batch=batch,
        message=messages[0] if messages else None,
        injected=injected,
        optional=optional,
        generator=inspect.isasyncgenfunction(function),
    )


def of_producer(function: Callable[..., Any]) -> Signature:
    """The signature of a producer: every parameter is injected. Raises ConfigurationError."""
    hint_of(function, "return")
    injected, optional = _injected(_parameters(function))
    return Signature(injected=injected, optional=optional, generator=inspect.isasyncgenfunction(function))


def hint_of(function: Callable[..., Any], name: str, otherwise: Any = None) -> Any:
    """The annotation of a parameter, or of "return", as a type. Raises ConfigurationError."""
    try:
        return _hint(function, name, otherwise)
    except Exception as error:  # an annotation is any expression
        raise ConfigurationError(f"{where(function)}: an annotation cannot be read: {error}") from error


def _hint(function: Callable[..., Any], name: str, otherwise: Any = None, **known: Any) -> Any:
    annotations = getattr(function, "__annotations__", {})
    if name not in annotations:
        return otherwise
    alone = SimpleNamespace(__annotations__={name: annotations[name]})  # the others need not be readable
    names = known | getattr(inspect.unwrap(function), "__globals__", {})
    return get_type_hints(alone, names, include_extras=True)[name]


def _hint_or_none(function: Callable[..., Any], name: str) -> Any:
    """The bare type of a parameter that is not the body; None if it cannot be read at run time."""
    try:
        return _bare(_hint(function, name, Message=Message))
    except Exception:  # imported for type checkers only
        return None


def _bare(hint: Any) -> Any:
    """A type without Annotated and `| None`."""
    if get_origin(hint) is Annotated:
        return _bare(hint.__origin__)
    members = [member for member in get_args(hint) if member is not NoneType]
    return _bare(members[0]) if get_origin(hint) in (Union, UnionType) and len(members) == 1 else hint


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(
                f"{where(function)}: parameter {parameter} must be a plain named one"
                " (a decorator needs functools.wraps)"
            )
    return parameters


def _injected(parameters: Sequence[inspect.Parameter]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of those that must be given, and of those with a default."""
    required = tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty)
    return required, tuple(parameter.name for parameter in parameters if parameter.name not in required)
