"""Bodies: decodes bytes to what a handler's annotation says, and encodes values to bytes; no message, no broker."""

from __future__ import annotations

import functools
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints
from warnings import catch_warnings

import msgspec

from ..errors import ConfigurationError, InvalidMessage

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Decode = Callable[[bytes], Any]

RAW = (bytes, bytearray, memoryview)
MADE_FROM_TEXT = (IPv4Address, IPv6Address, IPv4Network, IPv6Network, PurePath)
WITH_FIELDS = ("__struct_fields__", "__dataclass_fields__", "__attrs_attrs__", "__total__", "_fields")
NOT_DECODABLE = (TypeError, RuntimeError, NameError, Warning)
"""What msgspec and pydantic raise for an annotation."""
GZIP = b"\x1f\x8b"  # the first bytes of compressed data
# In MessagePack a float, and one that is NaN or infinite; text never looks like that, numbers and bytes rarely.
FLOAT = b"\xcb"
NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


def decoder(kind: Any) -> Decode:
    """A function that decodes JSON to `kind`: dict, Struct, dataclass, TypedDict, whatever pydantic decodes.

    `bytes` gets the body as it is. Types that JSON lacks are made from text by calling them
    (ipaddress.IPv4Address, pathlib.Path). If a key occurs twice, the last value counts; NaN and 1e400 are
    refused, except that a pydantic model decides itself (allow_inf_nan). Nothing is decompressed.
    The function raises InvalidMessage; `decoder` itself raises ConfigurationError for an annotation
    that nothing can be decoded to, or whose checks would be skipped.
    """
    try:
        parse = _parser(kind)
    except NOT_DECODABLE as error:
        problem = str(error).partition("\n")[0]
        raise ConfigurationError(f"no message can be decoded to {kind!r}: {problem}") from error

    def decode(body: bytes) -> Any:
        try:
            return parse(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            name = kind.__name__ if isinstance(kind, type) else kind
            why = "it is compressed with gzip" if body.startswith(GZIP) else error
            raise InvalidMessage(f"the body is not a JSON {name}: {why}") from error

    return decode


def _parser(kind: Any) -> Decode:
    if kind is bytes:
        return bytes
    if getattr(kind, "__origin__", None) is bytes:  # Annotated[bytes, ...]
        return functools.partial(msgspec.convert, type=kind)
    adapter = adapter_of(kind)
    return adapter.validate_json if adapter else msgspec.json.Decoder(kind, dec_hook=_from_json).decode


def adapter_of(kind: Any) -> TypeAdapter[Any] | None:
    """Pydantic's adapter if it decodes `kind`: if `kind` involves pydantic, or msgspec cannot decode it; else None.

    msgspec decodes a msgspec.Struct and the models in it. Raises one of NOT_DECODABLE if neither can,
    or if msgspec would skip what pydantic checks.
    """
    parts = list(_parts(kind))
    if any(map(_is_pydantics, parts)):
        with suppress(*NOT_DECODABLE):  # it does not know Structs
            return _adapter(kind)
    try:
        msgspec.json.Decoder(kind, dec_hook=_from_json)
        for part in parts:
            _check_made_by_us(part)
    except TypeError:
        with suppress(*NOT_DECODABLE):
            return _adapter(kind)
        raise
    return None


def _parts(kind: Any, seen: dict[int, Any] | None = None) -> Iterator[Any]:
    """`kind`, the types in it, those of its fields, and what Annotated says of them."""
    seen = {} if seen is None else seen
    if id(kind) in seen:
        return
    seen[id(kind)] = kind
    yield kind
    of_alias = [getattr(kind, name, None) for name in ("__value__", "__supertype__")]
    inner = [*get_args(kind), *of_alias]
    own = get_origin(kind) or kind
    if any(hasattr(own, name) for name in WITH_FIELDS) and not _is_pydantics(own):
        with suppress(NameError):  # msgspec says so
            inner += get_type_hints(own, include_extras=True).values()
    for part in inner:
        yield from _parts(part, seen)


def _is_pydantics(part: Any) -> bool:
    """True for a model, a pydantic dataclass, a type or check that pydantic knows; nothing is imported."""
    if hasattr(part, "__pydantic_validator__") or hasattr(part, "__get_pydantic_core_schema__"):
        return True
    kinds = (part if isinstance(part, type) else type(part)).__mro__
    return any(kind.__module__.startswith(("pydantic", "annotated_types")) for kind in kinds)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if "pydantic" not in sys.modules:
        raise TypeError("pydantic is not imported")
    from pydantic import TypeAdapter

    with catch_warnings(action="error"):  # models of pydantic.v1 are taken with a warning, and fail later
        adapter = TypeAdapter(kind)
        adapter.rebuild()  # or a name that is missing would be missed at the first message only
    return adapter


_adapter_inside = functools.cache(_adapter)  # of a type inside a Struct


def _check_made_by_us(part: Any) -> None:
    """Raise TypeError where _from_json cannot make what msgspec leaves to it, or would not be asked."""
    if _is_pydantics(part):
        if is_dataclass(part) or not isinstance(part, type):
            raise TypeError(f"msgspec would skip the checks of {part!r}, which is pydantic's")
        _adapter_inside(part)
    elif isinstance(part, type) and isinstance(msgspec.inspect.type_info(part), msgspec.inspect.CustomType):
        try:
            inspect.signature(part).bind("text")
        except ValueError:  # its parameters are unknown
            pass
        except TypeError:
            raise TypeError(f"{part!r} has no fields with types, and is not made from text") from None


def _from_json(kind: type, value: Any) -> Any:
    if _is_pydantics(kind):
        return _adapter_inside(kind).validate_json(msgspec.json.encode(value))
    if not isinstance(value, str):
        raise ValueError(f"expected text for {kind.__name__}, got {type(value).__name__}")
    return kind(value)


def not_json(body: bytes) -> str:
    """What is wrong with `body` as JSON; empty if nothing is."""
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return f"{body[:60].decode(errors='replace')!r}: {error}"
    return ""


def _to_builtin(value: Any) -> Any:
    if hasattr(value, "__pydantic_serializer__"):
        from pydantic_core import to_jsonable_python

        return to_jsonable_python(value, by_alias=True)
    if isinstance(value, MADE_FROM_TEXT):
        return str(value)
    raise TypeError(f"objects of type {type(value).__name__} have no JSON form")


def _without_dataclasses(value: Any) -> Any:
    """`value` with the dataclasses of pydantic as pydantic writes them: msgspec would write them like plain ones."""
    if isinstance(value, dict):
        return {name: _without_dataclasses(own) for name, own in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_dataclasses(own) for own in value]
    if isinstance(value, type) or not is_dataclass(value):
        return value
    if hasattr(value, "__pydantic_serializer__"):
        return _to_builtin(value)
    return {field.name: _without_dataclasses(getattr(value, field.name)) for field in fields(value)}


def _held(value: Any) -> Any:
    """What a model holds, where its JSON may say null of NaN; of anything else something that is no float."""
    return value.model_dump() if hasattr(value, "__pydantic_serializer__") else id(value)


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


TO_JSON = msgspec.json.Encoder(enc_hook=_to_builtin).encode
TO_MESSAGEPACK = msgspec.msgpack.Encoder(enc_hook=_held).encode


def encode(body: Any) -> bytes:
    """`body` as JSON in UTF-8; bytes stay as they are. Pydantic's values are written by alias.

    Raises ConfigurationError for what JSON does not have, including NaN and infinity anywhere in the body.
    """
    if isinstance(body, RAW):
        return bytes(body)
    try:
        plain = _without_dataclasses(body) if "pydantic.dataclasses" in sys.modules else body
        encoded = TO_JSON(plain)
        packed = TO_MESSAGEPACK(body)  # JSON says null of NaN, and "null" is slow to find
        if FLOAT in packed and NOT_FINITE.search(packed) and not _finite(msgspec.msgpack.decode(packed)):
            raise ValueError("JSON has no NaN and no infinity")
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigurationError(
            f"an object of type {type(body).__name__} cannot be encoded as JSON: {error}"
        ) from error
    return encoded
