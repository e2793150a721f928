"""Pipeline: what modules declare as a graph of producers, exchanges and consumers; it draws and opens nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import msgspec

from ..config.settings import Settings
from ..handler import Binding, Source
from ..masking import masked
from ..service.discovery import Service

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


def pipeline(services: Sequence[Service], settings: Settings) -> Pipeline:
    """The graph of what `services` declare; `to` is what config.yml makes of it.

    Where a handler puts `Out(..., exchange=...)` is not declared, so such an edge is missing. Dead letters are
    not part of it. An exchange that nothing here consumes is a node without a way out.
    """

    def exchange(name: str) -> Node:
        return Node(EXCHANGE, name, "", settings.broker_of(name))

    def node(kind: str, declared: Binding | Source[..., object], doc: str | None) -> Node:
        about = (doc or "").strip().partition("\n")[0]
        return Node(kind, declared.exchange, declared.id, settings.broker_of(declared.exchange), about)

    edges: list[tuple[Node, Node]] = []
    for producer in chain.from_iterable(service.producers for service in services):
        edges.append((node(PRODUCER, producer, producer.handler.__doc__), exchange(producer.exchange)))
    for consumer in chain.from_iterable(service.consumers for service in services):
        own = node(CONSUMER, consumer, consumer.handler.__doc__)
        edges.append((exchange(consumer.exchange), own))
        edges += [(own, exchange(name)) for name in settings.configured(consumer).options.to]
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
