"""Pipeline: what modules declare as a graph of producers, exchanges and consumers; it draws and opens nothing."""

from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from ..config.settings import Settings
from ..handler import Binding
from ..masking import masked
from ..service.discovery import Declared, Service

PRODUCER, EXCHANGE, CONSUMER = "producer", "exchange", "consumer"

Edge = tuple[str, str]
"""From one node's key to another's."""


class Node(msgspec.Struct, frozen=True):
    """`kind`: producer, exchange or consumer. `id` is empty for an exchange. `broker` carries `exchange`.

    `about`: the first line of the handler's docstring.
    """

    kind: str
    exchange: str
    id: str
    broker: str
    about: str = ""

    @property
    def name(self) -> str:
        """exchange/id, or only the exchange."""
        return f"{self.exchange}/{self.id}" if self.id else self.exchange

    @property
    def label(self) -> str:
        """What its box says: the exchange of a producer or consumer is the box beside it."""
        return self.id or self.exchange

    @property
    def key(self) -> str:
        """What no other node of a pipeline has."""
        return f"{self.kind} {self.name}"


class Pipeline(msgspec.Struct, frozen=True):
    """Nodes by key, edges from key to key as messages flow, and the addresses, masked, of brokers by name."""

    nodes: dict[str, Node]
    edges: list[Edge]
    brokers: dict[str, str]


class Operation(msgspec.Struct, frozen=True):
    """What one handler does with the messages of one exchange: `action` is receive or send."""

    declared: Declared
    action: str
    exchange: str
    service: str


def operations(services: Sequence[Service], settings: Settings) -> Iterator[Operation]:
    """What each handler receives and sends, with `to` as config.yml overrides it.

    The exchange of an `Out(..., exchange=...)` is not declared, so it is missing, as are dead letters.
    """
    for service in services:
        for producer in service.producers:
            yield Operation(producer, "send", producer.exchange, service.name)
        for consumer in map(settings.configured, service.consumers):
            yield Operation(consumer, "receive", consumer.exchange, service.name)
            for to in consumer.options.to:
                yield Operation(consumer, "send", to, service.name)


def pipeline(services: Sequence[Service], settings: Settings) -> Pipeline:
    """The graph of what `services` declare; an exchange that nothing here consumes is a dead end."""
    edges: list[tuple[Node, Node]] = []
    for operation in operations(services, settings):
        own, broker = operation.declared, settings.broker_of(operation.declared.exchange)
        kind = CONSUMER if isinstance(own, Binding) else PRODUCER
        about = (own.handler.__doc__ or "").strip().partition("\n")[0]
        node = Node(kind, own.exchange, own.id, broker, about)
        exchange = Node(EXCHANGE, operation.exchange, "", settings.broker_of(operation.exchange))
        edges.append((node, exchange) if operation.action == "send" else (exchange, node))
    return joined(edges, settings)


def joined(edges: Sequence[tuple[Node, Node]], settings: Settings) -> Pipeline:
    """The graph of these edges, each once."""
    nodes = {node.key: node for node in chain.from_iterable(edges)}
    used = {node.broker for node in nodes.values()}
    return Pipeline(
        nodes=nodes,
        edges=list(dict.fromkeys((source.key, target.key) for source, target in edges)),
        brokers={name: masked(url) for name, url in settings.brokers.items() if name in used},
    )
