"""The memory transport keeps the contract."""

import pytest

from mqasync.message import new_id
from mqasync.transport import Features

from .conformance import Conformance


class TestMemory(Conformance):
    features = Features(durable=False, shared=False, counts_returns=False, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self) -> str:
        return f"memory:{new_id()}"
