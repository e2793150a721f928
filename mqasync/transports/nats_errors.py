"""What nats-py raises and what JetStream answers, in the words of mqasync.errors; nothing is repeated here."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import nats.errors

from ..errors import BrokerBusy, BrokerError, BrokerLost, BrokerRefused

REPLY_SECONDS = 10.0  # a server that is starting or has no leader may never answer a request
NO_RESPONDERS = "503"  # the status of "nobody listens to this subject"
NOT_ENABLED = (10039, 10076)  # JetStream, for this account or at all
CREDENTIALS = "nats://user:password@host, or nats://host?token=..., says who we are"


@contextmanager
def broker_errors() -> Iterator[None]:
    """Say what nats-py raises in the words of mqasync.errors."""
    try:
        yield
    except (nats.errors.Error, OSError, RuntimeError, TimeoutError) as error:
        raise BrokerLost(str(error) or "no answer in time") from error


def why_not_connected(error: BaseException | None) -> BrokerError:
    """What to raise for a connection that did not come about."""
    text = str(error or "no answer in time").removeprefix("nats: ").strip("'\r\n")
    reason = (isinstance(error, ssl.SSLError) and error.reason) or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return BrokerRefused(f"its certificate is not trusted: {error.verify_message.rstrip('.')}")
    if "_ALERT_" in reason:
        words = reason.partition("_ALERT_")[2].replace("_", " ").lower()
        return BrokerRefused(f"it ended the TLS handshake: {words}; certfile= and keyfile= name our certificate")
    if "authorization" in text.lower() or "authentication" in text.lower():
        return BrokerRefused(f"{text}: {CREDENTIALS}")
    return BrokerLost(text)


def answer(data: bytes) -> dict[str, Any] | None:
    """What JetStream answered to a request; None for a stream or consumer that does not exist.

    Raises BrokerBusy where a later attempt may be granted, else BrokerRefused.
    """
    try:
        told: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BrokerBusy(f"JetStream answered what is not JSON: {data[:100]!r}") from error
    failure = told.get("error")
    if not failure:
        return told
    if failure.get("code") == 404:
        return None
    text = f"JetStream says: {failure.get('description', failure)}"
    code = failure.get("code", 500)
    # 429: too many requests; from 500 on: no leader, no space, a full stream
    if code == 429 or (code >= 500 and failure.get("err_code") not in NOT_ENABLED):
        raise BrokerBusy(text)
    raise BrokerRefused(text)
