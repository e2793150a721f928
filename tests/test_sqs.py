"""The sqs transport keeps the contract, on moto."""

import pytest

from mqasync.transport import Features

from .conformance import Conformance
from .servers.sqs import Moto


class TestSQS(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=140 * 1024)

    @pytest.fixture
    def url(self, sqs_server: Moto, aws: None) -> str:
        return sqs_server.url
