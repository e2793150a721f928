"""TLS towards RabbitMQ: its failures to words; no connection and no URL here."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from aiormq.exceptions import AMQPError

from ..errors import BrokerRefused


@contextmanager
def refusals() -> Iterator[None]:
    """Around a connect: raise BrokerRefused for a failure of TLS that another attempt would meet again."""
    try:
        yield
    except AMQPError as error:
        if why := _for_good(error.__cause__):
            raise BrokerRefused(why) from error
        raise


def _for_good(error: BaseException | None) -> str:
    """Why TLS will fail the next time too; empty if it may not."""
    reason = (isinstance(error, ssl.SSLError) and error.reason) or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    if "_ALERT_" in reason:
        words = reason.partition("_ALERT_")[2].replace("_", " ").lower()
        return f"it ended the TLS handshake: {words}; certfile= and keyfile= name our certificate"
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "what listens there does not speak TLS: use amqp://, or the port for amqps:// (usually 5671)"
    return ""
