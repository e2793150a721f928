"""From a broker's URL to its transport, loaded only then; no transport's own code."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from ..errors import ConfigurationError
from ..transport import Options, Transport

# URL scheme: (module, class, the extra of pyproject.toml that brings the client library)
SCHEMES = {
    "memory": ("memory", "MemoryTransport", ""),
    "sqlite": ("sqlite", "SQLiteTransport", ""),
    "amqp": ("rabbitmq", "RabbitMQTransport", ""),
    "amqps": ("rabbitmq", "RabbitMQTransport", ""),
}


def load(url: str, options: Options | None = None) -> Transport:
    """The transport for `url`, not opened yet.

    Raises ConfigurationError for an unknown scheme, a missing client library or a wrong URL or option.
    """
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise ConfigurationError(f"no transport for the URL scheme {scheme!r}: there are {', '.join(SCHEMES)}")
    module, name, extra = SCHEMES[scheme]
    try:
        transport = getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        package = f"mqasync[{extra}]" if extra else "mqasync"
        raise ConfigurationError(
            f"the URL scheme {scheme!r} needs the package {error.name!r}: pip install '{package}'"
        ) from error
    return cast(Transport, transport(url, options or {}))
