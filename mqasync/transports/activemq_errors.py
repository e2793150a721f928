"""What ActiveMQ and the way to it say, in the words of mqasync.errors; nothing is repeated or logged here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import BrokerBusy, BrokerError, BrokerLost, BrokerRefused
from .activemq_frames import Frame
from .common import tls

REPLY_SECONDS = 10.0  # a broker that is starting or shutting down may never answer a request
# An ERROR frame has no code, only the text of a Java exception; the cause of a failed COMMIT stands in its body.
REFUSED = re.compile(r"SecurityException|not authorized|or password is invalid|InvalidDestination", re.IGNORECASE)
LINE = 300  # characters of such a text that people are shown


def told(frame: Frame) -> BrokerError:
    """What an ERROR frame means: no for good, or not now (a full store, a transaction rolled back)."""
    body = frame.body.decode(errors="replace")
    message = frame.headers.get("message") or body.partition("\n")[0]
    found = REFUSED.search(message) or REFUSED.search(body)
    if not found:
        return BrokerBusy(message[:LINE])
    if found.string is body:
        start = body.rfind("\n", 0, found.start()) + 1
        message = body[start:].partition("\n")[0].removeprefix("Caused by: ")
    return BrokerRefused(message[:LINE])


@contextmanager
def connecting(encrypted: bool = False) -> Iterator[None]:
    """Around a connect: BrokerRefused for what another attempt would meet again, else BrokerLost."""
    try:
        yield
    except BrokerBusy as error:  # too many connections, for instance
        raise BrokerLost(str(error)) from error
    except TimeoutError as error:  # ActiveMQ without TLS answers a handshake with silence
        perhaps = "; perhaps it does not speak TLS there" if encrypted else ""
        raise BrokerLost(f"no answer within {REPLY_SECONDS:g} s{perhaps}") from error
    except OSError as error:  # ssl.SSLError is one
        if why := tls.why_for_good(error, "activemq://, or the port for activemqs:// (usually 61612 or 61614)"):
            raise BrokerRefused(why) from error
        raise BrokerLost(str(error)) from error


@contextmanager
def settling() -> Iterator[None]:
    """Around a settlement: whatever the broker says, the delivery is not settled."""
    try:
        yield
    except BrokerError as error:
        raise BrokerLost(str(error)) from error


async def answer(future: asyncio.Future[Frame], patient: bool = False) -> Frame:
    """What the broker answers; BrokerBusy when that takes longer than REPLY_SECONDS and we are not `patient`.

    Not BrokerLost: a connection that is dead is noticed by its heartbeat.
    """
    try:
        async with asyncio.timeout(None if patient else REPLY_SECONDS):
            return await future
    except TimeoutError as error:
        raise BrokerBusy(f"no answer within {REPLY_SECONDS:g} s; perhaps its memory or store is full") from error
