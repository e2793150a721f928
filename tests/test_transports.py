"""From a URL to its transport."""

from typing import Any

import pytest

from mqasync import ConfigurationError
from mqasync.brokers.connection import load
from mqasync.transports.memory import MemoryTransport


def test_a_scheme_with_dots_names_the_users_own_class() -> None:
    connection: Any = load("mqasync.transports.memory.MemoryTransport:x")
    assert isinstance(connection._transport, MemoryTransport)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no.such.Thing:x", "no transport 'Thing' can be imported from 'no.such': No module named 'no'"),
        ("mqasync.message.Thing:x", "no transport 'Thing' can be imported from 'mqasync.message'"),
        ("..Thing:x", r"no transport for the URL scheme '\.\.Thing'"),
        ("carrier-pigeon://coop", "no transport for the URL scheme 'carrier-pigeon': there are memory, sqlite"),
    ],
)
def test_what_cannot_be_loaded_is_named(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(url)
