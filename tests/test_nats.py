"""The nats transport keeps the contract, and says what is wrong with a URL, its options and the server."""

import pytest

from mqasync.transport import Features

from .conformance import Conformance
from .servers.nats import NATS


class TestNATS(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=(1024 - 112) * 1024)

    @pytest.fixture
    def url(self, nats_server: NATS) -> str:
        return f"{nats_server.url}?lease=3"
