"""The URL and the options of the sqs transport, checked; nothing is connected here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ..errors import ConfigurationError
from ..transport import Options

RETENTION_SECONDS = 14 * 24 * 3600  # the most that SQS keeps a message
LIMITS = {"wait": (1, 20), "lease": (1, 43_200)}  # whole seconds, as SQS takes them
FIFO = "fifo"
FIFO_ATTRIBUTES = ("DeduplicationScope", "FifoThroughputLimit")
ATTRIBUTES = (
    "MessageRetentionPeriod",
    "MaximumMessageSize",
    "KmsMasterKeyId",
    "KmsDataKeyReusePeriodSeconds",
    "SqsManagedSseEnabled",
    *FIFO_ATTRIBUTES,
)
RULE = "write sqs://REGION, as in sqs://eu-central-1"


class Settings(msgspec.Struct, frozen=True):
    """What a URL says; `endpoint` is empty for AWS itself."""

    region: str
    endpoint: str = ""
    wait: int = 2
    lease: int = 30


def parse(url: str) -> Settings:
    """Raises ConfigurationError."""
    parts = urlsplit(url, allow_fragments=False)
    if "@" in parts.netloc:
        rule = "they come from the AWS environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, a role)"
        raise ConfigurationError(f"an sqs:// URL takes no credentials: {rule}")
    if not re.fullmatch(r"[a-z0-9-]+", parts.netloc) or parts.path not in ("", "/"):
        raise ConfigurationError(f"{parts.netloc + parts.path!r} is not an AWS region: {RULE}")
    endpoint, seconds = "", {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key == "endpoint":
            endpoint = _endpoint(value)
        elif key in LIMITS:
            seconds[key] = _seconds(key, value)
        else:
            raise ConfigurationError(f"{key!r} cannot be set in an sqs:// URL; there are: endpoint, wait, lease")
    return Settings(parts.netloc, endpoint, **seconds)


def _seconds(key: str, value: str) -> int:
    least, most = LIMITS[key]
    if not re.fullmatch(r"[0-9]{1,6}", value) or not least <= int(value) <= most:
        raise ConfigurationError(f"{key} is {value!r}; it takes whole seconds from {least} to {most:,}")
    return int(value)


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if "@" in parts.netloc:
        raise ConfigurationError("endpoint takes no credentials: they come from the AWS environment")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"endpoint is {value!r}; it takes http://host:port or https://host:port")
    return value


def check(options: Options) -> None:
    """Raises ConfigurationError for an option that no queue has."""
    for exchange, given in options.items():
        for name, value in given.items():
            if problem := _problem(name, value, given):
                raise ConfigurationError(problem, "exchanges", exchange, "options", name)


def _problem(name: str, value: Any, given: Mapping[str, Any]) -> str:
    if name == FIFO:
        return "" if isinstance(value, bool) else f"fifo is {value!r}; it takes true or false"
    if name not in ATTRIBUTES:
        return f"{name!r} is not an option of SQS; there are: {', '.join((FIFO, *ATTRIBUTES))}"
    if name in FIFO_ATTRIBUTES and not given.get(FIFO):
        return f"{name} is for FIFO queues: it takes fifo: true as well"
    if not isinstance(value, bool | int | str):
        return f"{name} is {value!r}; it takes a text, a number, true or false"
    return ""


def attributes(options: Mapping[str, Any]) -> dict[str, str]:
    """The queue attributes among the options of one exchange, as SQS writes them."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in options.items()
        if name != FIFO
    }
