"""`mqasync docs`: what is described is valid AsyncAPI 3.0 by the official schema, and says what the handlers say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from jsonschema import Draft7Validator

from mqasync.describe.asyncapi import server

from .commands import CommandLine

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "tests/data/asyncapi-3.0.0.json").read_text())
EVERY_KIND = '''"""Every kind of annotation."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network
from typing import Any, TypedDict

import msgspec
import pydantic

from mqasync import Consumer, Out, consumer, producer


class Struct(msgspec.Struct):
    """A struct.

    With a second paragraph.
    """

    ip: IPv4Address
    networks: list[IPv6Network] = []


@dataclass
class Data:
    n: int


class Typed(TypedDict):
    text: str


class Inner(pydantic.BaseModel):
    n: int


class Model(pydantic.BaseModel):
    inner: Inner


Other = pydantic.create_model("Struct", n=(int, ...))  # the same name


@producer(exchange="in", id="raw")
async def raw() -> bytes:
    return b""


@producer(exchange="in", id="any")
async def unknown():
    yield Out({})


@consumer(exchange="in", id="bytes", to=["out", "all"])
async def of_bytes(body: bytes) -> Struct | Data | None:
    """Say what it is.

    In several lines.
    """


@consumer(exchange="in", id="batch", to="out")
async def batch(bodies: list[Struct]) -> AsyncIterator[Model | Typed | Out]:
    yield Out({})


@consumer(exchange="in", id="nothing", to="out")
async def nothing(body): ...


@consumer(exchange="out", id="pydantic", to="all")
async def model(body: Model) -> dict[str, int]: ...


@consumer(exchange="out", id="same")
async def same(body: Other): ...


@consumer(exchange="out", id="typed", to="all")
async def typed(body: Typed) -> Any: ...


@consumer(exchange="out", id="dataclass")
async def dataclass_(body: Data) -> None: ...


class Class(Consumer):
    async def process(self, message: Struct | Data) -> None: ...


one = Class(exchange="out", id="class")
'''


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    command_line = CommandLine(tmp_path, "sqlite:x.db")
    command_line.environment["PYTHONPATH"] = str(ROOT)
    command_line.file("every.py", EVERY_KIND)
    return command_line


def described(cli: CommandLine, *arguments: str) -> dict[str, Any]:
    """The document, when it is valid and none of its references lead nowhere."""
    done = cli.run("docs", *arguments, "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    problems = [f"{error.json_path}: {error.message}" for error in Draft7Validator(SCHEMA).iter_errors(document)]
    assert not problems
    for reference in references(document):
        place: Any = document
        for key in reference.removeprefix("#/").split("/"):
            place = place[unquote(key).replace("~1", "/").replace("~0", "~")]
    return document


def references(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        yield from (value for key, value in data.items() if key == "$ref")
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from references(value)


def messages(document: dict[str, Any], operation: str) -> list[str]:
    return [reference["$ref"].split("/")[-1] for reference in document["operations"][operation].get("messages", [])]


def test_the_schema_refuses_what_is_not_asyncapi() -> None:
    assert not Draft7Validator(SCHEMA).is_valid({"asyncapi": "3.0.0", "info": {"title": "without a version"}})


@pytest.mark.parametrize("module", ["services.cth", "services.hello", "every"])
def test_the_document_is_valid(cli: CommandLine, module: str) -> None:
    document = described(cli, module)
    assert document["info"]["title"] == module
    assert document["servers"] == {"main": {"host": "localhost", "protocol": "sqlite", "pathname": "x.db"}}


def test_payloads_are_what_the_annotations_say(cli: CommandLine) -> None:
    document = described(cli, "every", "--title", "Every kind", "--version", "1.2.3")
    assert (document["info"]["title"], document["info"]["version"]) == ("Every kind", "1.2.3")
    assert document["info"]["tags"] == [{"name": "every", "description": "Every kind of annotation."}]
    assert {name: messages(document, name) for name in document["operations"]} == {
        "in/raw/send": ["bytes"],
        "in/any/send": [],
        "in/bytes/receive": ["bytes"],
        "in/bytes/send/out": ["Struct", "Data"],
        "in/bytes/send/all": ["Struct", "Data"],
        "in/batch/receive": ["Struct"],
        "in/batch/send/out": ["pydantic.Model", "Typed"],
        "in/nothing/receive": ["dict"],
        "in/nothing/send/out": [],
        "out/pydantic/receive": ["pydantic.Model"],
        "out/pydantic/send/all": ["dict_str_int"],
        "out/same/receive": ["pydantic.Struct"],
        "out/typed/receive": ["Typed"],
        "out/typed/send/all": [],
        "out/dataclass/receive": ["Data"],
        "out/class/receive": ["Struct", "Data"],
    }
    channels, schemas = document["channels"], document["components"]["schemas"]
    assert channels["in"]["messages"]["bytes"] == {"name": "bytes", "contentType": "application/octet-stream"}
    assert channels["all"]["messages"]["dict_str_int"]["payload"] == {
        "type": "object",
        "additionalProperties": {"type": "integer"},
    }
    assert schemas["Struct"]["properties"] == {
        "ip": {"type": "string", "format": "ipv4"},
        "networks": {"type": "array", "items": {"type": "string"}, "default": []},
    }
    assert schemas["Struct"]["description"] == "A struct.\n\nWith a second paragraph."
    assert schemas["pydantic.Model"]["properties"]["inner"] == {"$ref": "#/components/schemas/pydantic.Inner"}
    assert schemas["pydantic.Struct"]["required"] == ["n"]
    assert document["operations"]["in/bytes/receive"]["description"] == "Say what it is.\n\nIn several lines."
    assert "description" not in document["operations"]["out/class/receive"], "not that of Consumer.process"


def test_servers_are_those_in_use_and_show_no_secret(cli: CommandLine) -> None:
    cli.file("secret", "geheim")
    cli.file(
        "config.yml",
        """
        brokers:
          main: kafkas://user:${file:secret}@one:9092,two:9092
          the/rabbit: amqp://guest:geheim@host/vhost?password=geheim
          unused: "sqlite:y.db"
        exchanges: {out: {broker: the/rabbit}}
        """,
    )
    document = described(cli, "every")
    assert document["servers"] == {
        "main": {"host": "one:9092,two:9092", "protocol": "kafka-secure"},
        "the/rabbit": {"host": "host", "protocol": "amqp", "pathname": "/vhost"},
    }
    assert document["channels"]["out"]["servers"] == [{"$ref": "#/servers/the~1rabbit"}]
    assert "geheim" not in json.dumps(document) and "user" not in json.dumps(document["servers"])


def test_a_transport_of_the_users_own_is_a_server_too() -> None:
    assert server("my_package.module.Class://me:geheim@host:1/x") == {
        "host": "host:1",
        "protocol": "my_package.module.Class",
        "pathname": "/x",
    }


def test_yaml_and_json_say_the_same(cli: CommandLine) -> None:
    assert cli.run("docs", "every", "--output", "docs.yml").returncode == 0
    text = (cli.directory / "docs.yml").read_text()
    assert yaml.safe_load(text) == described(cli, "every")
    assert "&id" not in text, "no YAML anchors, which not every tool reads"


def test_an_annotation_without_a_schema_is_the_users_mistake(cli: CommandLine) -> None:
    cli.file(
        "odd.py",
        "from mqasync import consumer\n\n"
        "@consumer(exchange='x', id='y')\nasync def odd(body: dict[str, int | list[int] | tuple[int, int]]): ...\n",
    )
    done = cli.run("docs", "odd")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mqasync: no schema can be made for an annotation: Type unions")
