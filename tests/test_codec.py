"""Bodies: what a handler's annotation decodes, what is encoded, and what is refused."""

import enum
import gzip
import ipaddress
import math
import warnings
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pydantic.dataclasses
import pydantic.v1
import pytest

from mqasync import ConfigurationError, InvalidMessage
from mqasync.handlers.codec import decoder, encode


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


class Address(pydantic.BaseModel):
    kind: Literal["address"]
    from_: str = pydantic.Field(alias="from")


class Host(pydantic.BaseModel):
    kind: Literal["host"]
    name: str = "x"

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def length(self) -> int:
        return len(self.name)


class Numbers(pydantic.RootModel[list[int]]): ...


@pydantic.dataclasses.dataclass
class Checked:
    n: int = pydantic.Field(alias="number")

    @pydantic.field_validator("n")
    @classmethod
    def positive(cls, value: int) -> int:
        assert value > 0
        return value


class WithModels(msgspec.Struct):
    models: list[Address]
    one: Host | None = None
    url: pydantic.HttpUrl | None = None


@dataclass
class WithChecked:
    checked: list[Checked]


class WithUnion(msgspec.Struct):
    either: Address | Host


class WithPydanticDataclass(msgspec.Struct):
    checked: list[Checked]


class WithPydanticField(msgspec.Struct):
    n: Annotated[int, pydantic.Field(ge=0)]


class Unresolved(pydantic.BaseModel):
    n: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class UnresolvedStruct(msgspec.Struct):
    n: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class NoFields:
    def __init__(self, one: int, two: int) -> None: ...


with warnings.catch_warnings(action="ignore"):  # newer Pythons are not for it

    class Old(pydantic.v1.BaseModel):
        n: int


class Measured(msgspec.Struct):
    value: Any
    note: str | None = None


@dataclass
class Series:
    values: list[Any]


class Reading(pydantic.BaseModel):
    value: float = 0.0
    data: dict[str, Any] = {}
    note: Any = None


class Level(enum.Enum):
    NONE = math.nan


ADDRESS = Address(kind="address", **{"from": "x"})
EITHER = Annotated[Address | Host, pydantic.Field(discriminator="kind")]
POSITIVE = Annotated[int, msgspec.Meta(gt=0)]


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
        (Annotated[bytes, msgspec.Meta(max_length=2)], b"\xff", b"\xff"),
        (POSITIVE, b"1", 1),
        (Address, b'{"kind":"address","from":"x"}', ADDRESS),
        (Address | None, b"null", None),
        (Address | Host, b'{"kind":"host"}', Host(kind="host")),
        (EITHER, b'{"kind":"address","from":"x"}', ADDRESS),
        (dict[str, Address], b'{"a":{"kind":"address","from":"x"}}', {"a": ADDRESS}),
        (list[EITHER] | None, b'[{"kind":"host"}]', [Host(kind="host")]),
        (WithModels, b'{"models":[{"kind":"address","from":"x"}]}', WithModels([ADDRESS])),
        (WithModels, b'{"models":[],"one":{"kind":"host"}}', WithModels([], Host(kind="host"))),
        (Numbers, b"[1,2]", Numbers([1, 2])),
        (Checked, b'{"number":1}', Checked(number=1)),
        (dict[str, tuple[Checked, ...]], b'{"a":[{"number":1}]}', {"a": (Checked(number=1),)}),
        (WithChecked, b'{"checked":[{"number":1}]}', WithChecked([Checked(number=1)])),
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
        (dict, b'{"n": 1e400}'),
        (dict[str, int], b'{"n": ' + b"9" * 5000 + b"}"),
        (Struct, b'{"ip": "not an address"}'),
        (Struct, b'{"ip": 7}'),
        (Struct, b"{}"),
        (Data, b'{"n": "x"}'),
        (Typed, b"{}"),
        (Model, b'{"n": "x"}'),
        (Annotated[bytes, msgspec.Meta(max_length=2)], b"abc"),
        (POSITIVE, b"0"),
        (dict[str, POSITIVE], b'{"n": 0}'),
        (Annotated[int, pydantic.Field(gt=0)], b"0"),
        (Address, b'{"kind": "address", "from_": "x"}'),
        (Address | None, b"{}"),
        (EITHER, b'{"kind": "neither"}'),
        (dict[str, Address], b'{"a": {}}'),
        (WithModels, b'{"models": [{"kind": "host"}]}'),
        (WithModels, b'{"models": [], "url": "no URL"}'),
        (Numbers, b'["x"]'),
        (Checked, b'{"number": -1}'),
        (list[Checked] | None, b'[{"number": -1}]'),
        (WithChecked, b'{"checked": [{"number": -1}]}'),
    ],
)
def test_a_body_that_is_something_else_is_an_invalid_message(kind: Any, body: bytes) -> None:
    with pytest.raises(InvalidMessage, match="the body is not a JSON"):
        decoder(kind)(body)


DEEP = 100_000


@pytest.mark.parametrize("kind", [dict, Struct, Model])
@pytest.mark.parametrize(
    "body",
    [
        b'{"n": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"n": ' * DEEP + b"1" + b"}" * DEEP,
        b'{"n": ' + b"[" * DEEP,
        b'{"n": -' + b"9" * 5000 + b"}",
        rb'{"n": "\ud800"}',
        rb'{"n": "\udfff"}',
        b'{"n": "\xed\xa0\x80"}',
        gzip.compress(b'{"n": 1}', mtime=0),
        '{"n": 1}'.encode("utf-16"),
        b'{"n": NaN}',
        b'{"n": -Infinity}',
    ],
    ids=lambda body: repr(body[:20]),
)
def test_json_that_is_meant_to_harm_is_an_invalid_message(kind: type, body: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decoder(kind)(body)


@pytest.mark.parametrize("body", [object(), {"n": {1, 2}.__iter__()}, {"n": "\ud800"}, {None: 1}, {"n": 1j}])
def test_what_json_cannot_carry_is_refused_with_its_type(body: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"an object of type {type(body).__name__} cannot be encoded as JSON"):
        encode(body)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "around",
    [
        lambda number: number,
        lambda number: {"a": [(number,)]},
        lambda number: {number},
        lambda number: Level.NONE,
        Measured,
        lambda number: Measured({"deep": Measured(number)}),
        lambda number: Series([1.5, number]),
        lambda number: Reading(value=number),
        lambda number: Reading(data={"any": number}),
        lambda number: Reading(note=[number]),
        lambda number: Reading(note=Reading(value=number)),
        lambda number: [Measured(Reading(note=number))],
        lambda number: {"a": Reading(note=Series([number]))},
    ],
)
def test_nan_and_infinity_are_refused_wherever_they_are(around: Any, number: float) -> None:
    with pytest.raises(ConfigurationError, match="cannot be encoded as JSON: JSON has no NaN and no infinity"):
        encode(around(number))


@pytest.mark.parametrize(
    ("body", "encoded"),
    [
        (None, b"null"),
        ({"a": None, "b": 1.5, "null": "NaN"}, b'{"a":null,"b":1.5,"null":"NaN"}'),
        (Measured(1.5), b'{"value":1.5,"note":null}'),
        (Reading(), b'{"value":0.0,"data":{},"note":null}'),
        # these numbers look like NaN in MessagePack
        ([0x00CB7FF000000000, None], b"[57280089041141760,null]"),
        ([b"\xcb\xff\xff", None], b'["y///",null]'),
        (Decimal("1.5"), b'"1.5"'),
        (bytearray(b"\xff"), b"\xff"),
        (memoryview(b"\xff"), b"\xff"),
        (Host(kind="host", name="abc"), b'{"kind":"host","name":"abc","length":3}'),
    ],
)
def test_null_is_no_nan_and_everything_else_is_encoded_as_it_is(body: Any, encoded: bytes) -> None:
    assert encode(body) == encoded


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Struct | Data, "Type unions"),
        (WithUnion, "Type unions"),
        (WithPydanticDataclass, "msgspec would skip the checks of <class '.*Checked'>, which is pydantic's"),
        (WithPydanticField, "msgspec would skip the checks of FieldInfo"),
        (Unresolved, "name 'Nowhere' is not defined"),
        (UnresolvedStruct, "name 'Nowhere' is not defined"),
        (NoFields, "<class '.*NoFields'> has no fields with types, and is not made from text"),
        (list[NoFields], "<class '.*NoFields'> has no fields with types, and is not made from text"),
        (Old, "Mixing V1 models and V2 models"),
    ],
)
def test_an_annotation_that_nothing_decodes_to_as_a_whole_is_a_configuration_error(kind: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^no message can be decoded to .*: {problem}"):
        decoder(kind)
