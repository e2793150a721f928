"""What is made sure of before the first message flows, and said about what does not hold; nothing runs here."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Sequence
from operator import methodcaller
from typing import Any, get_type_hints

import msgspec

from ..brokers.broker import Brokers
from ..config.settings import Settings
from ..errors import ConfigurationError
from ..handler import Binding
from ..transport import DEAD
from .discovery import Service

log = logging.getLogger("mqasync")


async def declare(services: Sequence[Service], brokers: Brokers) -> None:
    """Every queue, with its dead letters, exists before the first message is published; every broker is connected."""
    settings = brokers.settings
    consumers = [consumer for service in services for consumer in service.consumers]
    exchanges = exchanges_of(services)
    in_use = {brokers.route(exchange).name for exchange in exchanges}
    consumed = {(consumer.exchange, consumer.id) for consumer in consumers}
    required = {(exchange, id) for exchange, own in settings.exchanges.items() for id in own.requires}
    for exchange, id in sorted(consumed | {queue for queue in required if settings.broker_of(queue[0]) in in_use}):
        broker = brokers.route(exchange)
        if (exchange, id) in consumed:
            await broker.call(methodcaller("declare", exchange, id + DEAD, bound=False))
        await broker.call(methodcaller("declare", exchange, id))
    for exchange in sorted(exchanges):
        await brokers.route(exchange).connected()


def exchanges_of(services: Sequence[Service]) -> set[str]:
    """Every exchange that these consume from or publish to."""
    consumers = [consumer for service in services for consumer in service.consumers]
    producers = [producer for service in services for producer in service.producers]
    exchanges = {consumer.exchange for consumer in consumers} | {producer.exchange for producer in producers}
    return exchanges | {exchange for consumer in consumers for exchange in consumer.options.to}


def warn(consumers: Iterable[Binding], brokers: Brokers) -> None:
    """Say which of the model's promises do not hold here."""
    for broker in brokers.opened.values():
        if not broker.durable:
            what = "keeps messages in this process only: they end with it"
            log.warning("broker %s (%s) %s", broker.name, broker.address, what)
    consumers = list(consumers)
    heard = {consumer.exchange for consumer in consumers}
    heard |= {name for name, own in brokers.settings.exchanges.items() if own.requires or own.optional}
    for consumer in consumers:
        for exchange in set(consumer.options.to) - heard:
            what = "nothing here consumes: unless another service does, its messages are retried, then buried"
            log.warning("%s/%s puts out to %r, which %s", consumer.exchange, consumer.id, exchange, what)


def lifespan_settings(service: Service, settings: Settings) -> list[Any]:
    """What lifespan() gets: the service's section of config.yml as the type its parameter is annotated with."""
    assert service.lifespan
    section = settings.services.get(service.name, {})
    parameters = list(inspect.signature(service.lifespan).parameters)
    if not parameters:
        return []
    kind = get_type_hints(service.lifespan).get(parameters[0], dict)
    try:
        return [msgspec.convert(section, kind, strict=False)]
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"services.{service.name} in the configuration: {error}") from error
