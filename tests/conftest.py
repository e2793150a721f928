"""Fixtures for the whole suite: the real brokers, each started once; no test and no helper of one file."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NoReturn, TypeVar

import pytest

pytest.register_assert_rewrite("tests.conformance", "tests.waiting", "tests.faults.load")

from .brokers import BrokerUnavailable, RabbitMQ, Redis, rabbitmq, running_redis  # noqa: E402
from .servers.activemq import ActiveMQ, running_activemq  # noqa: E402

Broker = TypeVar("Broker")


def unavailable(error: BrokerUnavailable) -> NoReturn:
    """Skip loudly where a broker cannot be had; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"CI needs every broker: {error}")
    pytest.skip(f"NOT TESTED: {error}")


@contextmanager
def required(broker: AbstractContextManager[Broker]) -> Iterator[Broker]:
    """The running broker; where it cannot be had the test is skipped, but failed in CI."""
    try:
        with broker as server:
            yield server
    except BrokerUnavailable as error:
        unavailable(error)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMQ]:
    """A RabbitMQ that all tests share: do not stop it. Where it cannot be had: skipped, but failed in CI."""
    with required(rabbitmq()) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq_server: RabbitMQ) -> str:
    """The URL of the shared RabbitMQ."""
    return rabbitmq_server.url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis that all tests share: do not stop it. Where it cannot be had: skipped, but failed in CI."""
    with required(running_redis()) as server:
        yield server


@pytest.fixture(scope="session")
def activemq_server() -> Iterator[ActiveMQ]:
    """An ActiveMQ that all tests share: do not stop it. Where it cannot be had: skipped, but failed in CI."""
    with required(running_activemq()) as server:
        yield server
