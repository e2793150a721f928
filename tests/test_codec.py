"""Bodies: what a handler's annotation decodes, what is encoded, and what is refused."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from mqasync import ConfigurationError, InvalidMessage
from mqasync.codec import decoder, encode


class Struct(msgspec.Struct):
    ip: ipaddress.IPv4Address
    n: int = 0


@dataclass
class Data:
    n: int


class Typed(TypedDict):
    n: int


class Model(pydantic.BaseModel):
    n: int


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        (dict, b'{"n": 1}', {"n": 1}),
        (dict[str, int], b'{"n": 1}', {"n": 1}),
        (Any, b"[1]", [1]),
        (bytes, b"\x00\xff", b"\x00\xff"),
        (Struct, b'{"ip": "192.0.2.1"}', Struct(ipaddress.IPv4Address("192.0.2.1"))),
        (Data, b'{"n": 1}', Data(1)),
        (Typed, b'{"n": 1}', {"n": 1}),
        (Model, b'{"n": 1}', Model(n=1)),
        (Path, b'"/tmp"', Path("/tmp")),
    ],
)
def test_a_body_is_decoded_to_what_the_annotation_says_and_encoded_back(kind: Any, body: bytes, value: Any) -> None:
    assert decoder(kind)(body) == value
    assert decoder(kind)(encode(value)) == value


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (dict, b""),
        (dict, b"[]"),
        (dict, b"{"),
        (dict, b"\xff"),
        (dict, b'{"n": NaN}'),
        (dict, b'{"n": 1e400}'),
        (dict, b"[" * 100_000),
        (dict[str, int], b'{"n": ' + b"9" * 5000 + b"}"),
        (Struct, b'{"ip": "not an address"}'),
        (Struct, b'{"ip": 7}'),
        (Struct, b"{}"),
        (Data, b'{"n": "x"}'),
        (Typed, b"{}"),
        (Model, b'{"n": "x"}'),
    ],
)
def test_a_body_that_is_something_else_is_an_invalid_message(kind: Any, body: bytes) -> None:
    with pytest.raises(InvalidMessage, match="the body is not a JSON"):
        decoder(kind)(body)


@pytest.mark.parametrize("body", [object(), {"n": {1, 2}.__iter__()}, {"n": "\ud800"}])
def test_what_json_cannot_carry_is_refused_with_its_type(body: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"an object of type {type(body).__name__} cannot be encoded as JSON"):
        encode(body)


def test_an_annotation_that_nothing_decodes_to_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="no message can be decoded"):
        decoder(Struct | Data)
