"""Bodies: bytes to typed values and back, as a handler's annotation says; no message, no broker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec

from .errors import ConfigurationError, InvalidMessage

Decode = Callable[[bytes], Any]


def decoder(kind: Any) -> Decode:
    """A function that decodes JSON to `kind`: dict, msgspec.Struct, dataclass, TypedDict, pydantic model.

    `bytes` is taken as it is. Types that JSON lacks are made from text by calling them
    (ipaddress.IPv4Address, pathlib.Path). Of a key that stands twice the last value counts; NaN and 1e400 are
    refused, except that a pydantic model decides itself (allow_inf_nan). Nothing is decompressed.
    The function raises InvalidMessage; `decoder` itself raises ConfigurationError for an annotation
    that nothing can be decoded to.
    """
    if kind is bytes:
        return bytes
    try:
        parse = (
            kind.model_validate_json if is_pydantic(kind) else msgspec.json.Decoder(kind, dec_hook=_from_text).decode
        )
    except TypeError as error:
        raise ConfigurationError(f"no message can be decoded to {kind!r}: {error}") from error

    def decode(body: bytes) -> Any:
        try:
            return parse(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            name = getattr(kind, "__name__", str(kind))
            raise InvalidMessage(f"the body is not a JSON {name}: {error}") from error

    return decode


def encode(body: Any) -> bytes:
    """`body` as JSON in UTF-8; bytes as they are. Raises ConfigurationError for what JSON cannot carry."""
    if isinstance(body, bytes):
        return body
    try:
        return msgspec.json.encode(body, enc_hook=_to_builtin)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigurationError(
            f"an object of type {type(body).__name__} cannot be encoded as JSON: {error}"
        ) from error


def not_json(body: bytes) -> str:
    """What is wrong with `body` as JSON; nothing if it is JSON."""
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return f"{body[:60].decode(errors='replace')!r}: {error}"
    return ""


def is_pydantic(kind: Any) -> bool:
    """True for a pydantic model class; pydantic is never imported for this, only looked for."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _from_text(kind: type, value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"expected text for {kind.__name__}, got {type(value).__name__}")
    return kind(value)


def _to_builtin(value: Any) -> Any:
    if is_pydantic(type(value)):
        return value.model_dump(mode="json")
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
    from pathlib import PurePath

    if isinstance(value, (IPv4Address, IPv6Address, IPv4Network, IPv6Network, PurePath)):
        return str(value)
    raise TypeError(f"objects of type {type(value).__name__} have no JSON form")
