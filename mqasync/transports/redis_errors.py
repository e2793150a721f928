"""What redis-py raises and Redis replies, in the words of mqasync.errors; nothing is repeated or logged here."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions as redis

from ..errors import BrokerBusy, BrokerError, BrokerLost, BrokerRefused
from .common import tls

REFUSALS = (
    redis.AuthenticationError,
    redis.AuthenticationWrongNumberOfArgsError,
    redis.AuthorizationError,
    redis.NoPermissionError,
)
CLUSTER = (redis.MovedError, redis.AskError, redis.ClusterCrossSlotError)
LOST = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.InvalidResponse,
    redis.NoScriptError,  # somebody flushed the scripts: they are loaded when we connect
    redis.ReadOnlyError,  # another server was made the master
    redis.ClusterDownError,
    redis.TryAgainError,
)
# how Redis begins a reply that redis-py has no class for
BUSY_CODES = ("MISCONF", "NOREPLICAS", "BUSY")  # its disk is full, replicas are missing, a long script runs
LOST_CODES = ("NOGROUP", "UNBLOCKED")  # the queue is gone, another server was made the master


def translated(error: Exception) -> BrokerError:
    """The error to raise for `error`, which redis-py or a socket raised."""
    text = str(error) or "no answer in time"
    code = text.partition(" ")[0]
    if why := tls.why_for_good(_tls_error(error), "redis://, or the port for rediss://"):
        return BrokerRefused(why)
    if isinstance(error, REFUSALS):
        return BrokerRefused(text)
    if isinstance(error, CLUSTER):
        return BrokerRefused("it is a node of a Redis Cluster, which mqasync cannot use")
    if isinstance(error, redis.OutOfMemoryError) or code in BUSY_CODES:
        return BrokerBusy(f"it takes no messages: {text}")
    if isinstance(error, redis.ResponseError) and not isinstance(error, LOST) and code not in LOST_CODES:
        return BrokerRefused(text)
    return BrokerLost(text)


def _tls_error(error: BaseException | None) -> BaseException | None:
    """What is behind an error that redis-py made of a failure of TLS."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def broker_errors() -> Iterator[None]:
    """Around redis-py: raise what transports may raise."""
    try:
        yield
    except (redis.RedisError, OSError, RuntimeError, asyncio.IncompleteReadError) as error:
        raise translated(error) from error


@contextmanager
def only_lost() -> Iterator[None]:
    """For receiving and settling: whatever Redis says, what is not settled comes back."""
    try:
        yield
    except BrokerLost:
        raise
    except BrokerError as error:
        raise BrokerLost(str(error)) from error
