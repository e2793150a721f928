"""Reads the names of queues, for brokers that name a queue exchange.id; each transport makes the names itself."""

from __future__ import annotations

from ...errors import ConfigurationError
from ...transport import DEAD, check_name


def named(name: str) -> tuple[str, str] | None:
    """The (exchange, id) whose queue is called `name`; None for a retry queue, and for queues of other programs."""
    exchange, _, id = name.removesuffix(DEAD).rpartition(".")
    if name.startswith("amq."):  # RabbitMQ named it
        return None
    try:
        check_name("exchange", exchange)
        check_name("id", id)
    except ConfigurationError:
        return None
    return exchange, id + DEAD if name.endswith(DEAD) else id
