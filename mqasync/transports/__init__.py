"""Finds the transport for a broker's URL, and imports it only then; no transport's own code."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from ..errors import ConfigurationError
from ..transport import Options, Transport

if TYPE_CHECKING:
    from ..transport import Seen

# URL scheme: (module, class, the extra of pyproject.toml that brings the client library)
SCHEMES = {
    "memory": ("memory", "MemoryTransport", ""),
    "sqlite": ("sqlite", "SQLiteTransport", ""),
    "amqp": ("rabbitmq", "RabbitMQTransport", ""),
    "amqps": ("rabbitmq", "RabbitMQTransport", ""),
    "redis": ("redis", "RedisTransport", "redis"),
    "rediss": ("redis", "RedisTransport", "redis"),
    "redis+sentinel": ("redis", "RedisTransport", "redis"),
    "rediss+sentinel": ("redis", "RedisTransport", "redis"),
    "kafka": ("kafka", "KafkaTransport", "kafka"),
    "kafkas": ("kafka", "KafkaTransport", "kafka"),
    "sqs": ("sqs", "SQSTransport", "sqs"),
    "activemq": ("activemq", "ActiveMQTransport", "activemq"),
    "activemqs": ("activemq", "ActiveMQTransport", "activemq"),
    "nats": ("nats", "NATSTransport", "nats"),
    "natss": ("nats", "NATSTransport", "nats"),
    "postgresql": ("postgres", "PostgresTransport", "postgres"),
    "postgres": ("postgres", "PostgresTransport", "postgres"),
}
# the same for the stores in which dedup remembers ids
SEEN_SCHEMES = dict.fromkeys(("redis", "rediss"), ("redis", "SeenInRedis", "redis"))

# loggers of client libraries: the core logs in one line what they log as tracebacks, and at DEBUG they show bodies
LOUD = ("aiormq", "redis", "push_response", "aiokafka", "stompman", "nats", "asyncpg")


def load(url: str, options: Options | None = None) -> Transport:
    """The transport for `url`, not opened yet; a scheme `package.module.Class` is a transport of the user's own.

    Raises ConfigurationError for an unknown scheme, a missing client library or a wrong URL or option.
    """
    scheme = scheme_of(url)
    factory = _class(scheme, *SCHEMES[scheme]) if scheme in SCHEMES else _users_class(scheme)
    return cast(Transport, factory(url, options or {}))


def scheme_of(url: str) -> str:
    """The scheme of `url`. Raises ConfigurationError if it is neither one of SCHEMES nor the path of a class."""
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES and "." not in scheme.strip("."):
        raise ConfigurationError(f"unknown URL scheme {scheme!r}; valid schemes: {', '.join(SCHEMES)}")
    return scheme


def load_seen(url: str, exchange: str, id: str, ttl: float) -> Seen:
    """The store at `url` that remembers the ids of the queue (exchange, id) for `ttl` seconds, not connected yet.

    Raises ConfigurationError for a missing client library or a wrong URL.
    """
    scheme = url.partition(":")[0]
    return cast("Seen", _class(scheme, *SEEN_SCHEMES[scheme])(url, exchange, id, ttl))


def _class(scheme: str, module: str, name: str, extra: str) -> Any:
    """The class `name`, its module imported. Raises ConfigurationError for a missing client library."""
    for logger in map(logging.getLogger, LOUD):
        if logger.level == logging.NOTSET:  # a program may want to see them
            logger.setLevel(logging.CRITICAL)
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        package = f"mqasync[{extra}]" if extra else "mqasync"
        raise ConfigurationError(
            f"the URL scheme {scheme!r} needs the package {error.name!r}: pip install '{package}'"
        ) from error


def _users_class(scheme: str) -> Any:
    """The class that a scheme with dots names. Raises ConfigurationError where there is none."""
    module, _, name = scheme.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"no transport {name!r} can be imported from {module!r}: {error}") from error
