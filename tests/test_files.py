"""The transport of docs/adding-a-transport.md, in examples/files.py, does what every transport promises."""

from pathlib import Path

import pytest

from mqasync.transport import Features

from .conformance import Conformance


class TestFiles(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"examples.files.FilesTransport:{tmp_path}?lease=2"
