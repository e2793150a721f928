"""The redis transport keeps the contract."""

import pytest

from mqasync.transport import Features

from .conformance import Conformance
from .servers.redis import DurableRedis


class TestRedis(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self, redis_broker: DurableRedis) -> str:
        return f"{redis_broker.url}?lease=3"
