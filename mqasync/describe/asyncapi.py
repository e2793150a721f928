"""AsyncAPI 3.0: what services receive and send, as data that AsyncAPI's tools read; nothing is opened or written."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin
from urllib.parse import quote, urlsplit

import msgspec

from ..config.settings import Settings
from ..errors import ConfigurationError
from ..handler import Binding
from ..handlers.codec import NOT_DECODABLE, adapter_of
from ..handlers.signature import hint_of, of_consumer
from ..masking import masked
from ..message import Out
from ..service.discovery import Service
from .pipeline import Operation, operations

if TYPE_CHECKING:
    from pydantic import TypeAdapter

JSON, BYTES = "application/json", "application/octet-stream"
SCHEMAS = "#/components/schemas/"
PROTOCOLS = {"kafkas": "kafka-secure", "activemq": "stomp", "activemqs": "stomps"}  # AsyncAPI's names, where not ours
FORMATS = {IPv4Address: "ipv4", IPv6Address: "ipv6"}
UNTOLD = (Any, Out, None, type(None))  # annotations that say nothing of a body

Data = dict[str, Any]


def document(services: Sequence[Service], settings: Settings, title: str, version: str) -> Data:
    """The document; in AsyncAPI's words an exchange is a channel and a broker a server.

    Payloads come from the handlers' annotations, descriptions from their docstrings. It contains no user names and
    passwords. Outputs of `Out(..., exchange=...)` are missing. Raises ConfigurationError for an annotation that has
    no schema.
    """
    found = {key_of(operation): operation for operation in operations(services, settings)}
    bodies, schemas = described({body for operation in found.values() for body in bodies_of(operation)})
    channels: dict[str, Data] = {}
    for operation in sorted(found.values(), key=lambda operation: operation.exchange):
        broker = settings.broker_of(operation.exchange)
        new = {"address": operation.exchange, "servers": [_reference("servers", broker)], "messages": {}}
        channel = channels.setdefault(operation.exchange, new)
        channel["messages"] |= {bodies[body]["name"]: bodies[body] for body in bodies_of(operation)}
    brokers = {settings.broker_of(exchange): None for exchange in channels}
    modules = [(service.name, sys.modules[service.name].__doc__) for service in services]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": title,
            "version": version,
            "tags": [{"name": name, **_description(doc)} for name, doc in modules],
        },
        "defaultContentType": JSON,
        "servers": {name: server(settings.brokers[name]) for name in brokers},
        "channels": channels,
        "operations": {key: _operation(operation, bodies) for key, operation in found.items()},
        "components": {"schemas": schemas},
    }


def key_of(operation: Operation) -> str:
    """Its name in the document."""
    own = operation.declared
    to = f"/{operation.exchange}" if isinstance(own, Binding) and operation.action == "send" else ""
    return f"{own.exchange}/{own.id}/{operation.action}{to}"


def bodies_of(operation: Operation) -> list[Any]:
    """The types of what a handler gets, or returns or yields: those members of a union that say anything."""
    handler = operation.declared.handler
    annotation = of_consumer(handler).body if operation.action == "receive" else hint_of(handler, "return")
    if operation.action == "send" and inspect.isasyncgenfunction(handler):
        annotation = next(iter(get_args(annotation)), None)
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [member for member in members if member not in UNTOLD]


def described(kinds: Iterable[Any]) -> tuple[dict[Any, Data], Data]:
    """A message object for each type, and the schemas that they refer to, by name."""
    ordered = sorted((kind for kind in kinds if kind is not bytes), key=str)
    models: Data = {}  # pydantic's schemas by name
    try:
        adapters = {kind: adapter for kind in ordered if (adapter := adapter_of(kind))}
        others = [kind for kind in ordered if kind not in adapters]
        payloads, schemas = msgspec.json.schema_components(
            others, schema_hook=lambda kind: _inside(kind, models), ref_template=SCHEMAS + "{name}"
        )
    except NOT_DECODABLE as error:
        raise ConfigurationError(f"no schema can be made for an annotation: {error}") from error
    payload_of = dict(zip(others, payloads, strict=True))
    payload_of |= {kind: _by_pydantic(adapter, models) for kind, adapter in adapters.items()}
    schemas |= {f"pydantic.{name}": schema for name, schema in models.items()}
    for schema in schemas.values():
        schema.update(_description(schema.get("description")))
    bodies = {kind: _body(kind, payload) for kind, payload in payload_of.items()}
    return {**bodies, bytes: {"name": "bytes", "contentType": BYTES}}, schemas


def _by_pydantic(adapter: TypeAdapter[Any], models: Data) -> Data:
    """The schema of what pydantic decodes; those that it refers to are added to `models`."""
    # the prefix tells them from msgspec's of the same name
    template = SCHEMAS + "pydantic.{model}"
    found, definitions = adapter.json_schemas([(0, "validation", adapter)], ref_template=template)
    models |= definitions.get("$defs", {})
    return found[0, "validation"]


def _inside(kind: type, models: Data) -> Data:
    """The schema of a type that msgspec leaves to the codec: of a model, or of what is made from text."""
    if adapter := adapter_of(kind):
        return _by_pydantic(adapter, models)
    return {"type": "string", "format": FORMATS[kind]} if kind in FORMATS else {"type": "string"}


def _body(kind: Any, payload: Data) -> Data:
    name = str(kind) if get_args(kind) else getattr(kind, "__name__", str(kind))
    if "$ref" in payload:  # a schema of its own, whose name no other type has
        name = payload["$ref"].removeprefix(SCHEMAS)
    name = re.sub(r"[^\w.-]+", "_", name).strip("_")
    return {"name": name, "payload": payload}


def _operation(operation: Operation, bodies: dict[Any, Data]) -> Data:
    to = ("channels", operation.exchange)
    references = [_reference(*to, "messages", bodies[body]["name"]) for body in bodies_of(operation)]
    return {
        "action": operation.action,
        "channel": _reference(*to),
        **({"messages": references} if references else {}),
        "tags": [{"name": operation.service}],
        **_description(operation.declared.handler.__doc__),
    }


def server(url: str) -> Data:
    """A broker without user, password and options; a file is on this machine."""
    scheme, _, rest = masked(url).partition(":")
    parts = urlsplit(rest)
    host = parts.netloc.rpartition("@")[2] or "localhost"
    path = {"pathname": parts.path} if parts.path.strip("/") else {}
    return {"host": host, "protocol": PROTOCOLS.get(scheme, scheme), **path}


def _reference(*keys: str) -> Data:
    """A JSON pointer (RFC 6901) as a URI fragment."""
    return {"$ref": "#/" + "/".join(quote(key.replace("~", "~0").replace("/", "~1"), safe="") for key in keys)}


def _description(doc: str | None) -> Data:
    return {"description": inspect.cleandoc(doc)} if doc else {}
