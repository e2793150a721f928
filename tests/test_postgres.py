"""The postgres transport keeps the contract."""

import pytest

from mqasync.transport import Features

from .conformance import Conformance
from .servers.postgres import Postgres


class TestPostgres(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self, postgres_server: Postgres) -> str:
        return f"{postgres_server.url}&lease=3"
