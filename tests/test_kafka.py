"""The kafka transport keeps the contract."""

import pytest

from mqasync.transport import Features

from .conformance import Conformance
from .servers.kafka import Kafka


class TestKafka(Conformance):
    features = Features(durable=True, shared=True, counts_returns=False, keeps_keys_together=True, max_bytes=1_000_000)

    @pytest.fixture
    def url(self, kafka_server: Kafka) -> str:
        return kafka_server.url
