"""The rabbitmq transport keeps the contract."""

import pytest

from mqasync.transport import Features

from .conformance import Conformance


class TestRabbitMQ(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self, rabbitmq_url: str) -> str:
        return rabbitmq_url
