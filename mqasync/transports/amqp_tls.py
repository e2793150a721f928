"""TLS towards RabbitMQ: its failures to words; no connection and no URL here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiormq.exceptions import AMQPError

from ..errors import BrokerRefused
from .common import tls


@contextmanager
def refusals() -> Iterator[None]:
    """Around a connect: raise BrokerRefused for a failure of TLS that another attempt would meet again."""
    try:
        yield
    except AMQPError as error:
        if why := tls.why_for_good(error.__cause__, "amqp://, or the port for amqps:// (usually 5671)"):
            raise BrokerRefused(why) from error
        raise
