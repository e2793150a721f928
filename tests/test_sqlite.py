"""The sqlite transport keeps the contract."""

from pathlib import Path

import pytest

from mqasync.transport import Features

from .conformance import Conformance


class TestSQLite(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:{tmp_path}/test.db?lease=3"
