"""The transport of docs/adding-a-transport.md, in examples/files.py, does what every transport promises."""

from pathlib import Path

import pytest

from mqasync.brokers.inbox import Inbox
from mqasync.transport import Features

from .conformance import Conformance, receive


class TestFiles(Conformance):
    features = Features(durable=True, shared=True, counts_returns=True, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"examples.files.FilesTransport:{tmp_path}?lease=2"

    @pytest.mark.parametrize("data", [b"", b"no envelope", b"\x81\xa1x" + b"\x91" * 100_000, b"[" * 100_000 + b"\n{}"])
    async def test_a_broken_file_comes_with_all_its_bytes_and_stops_nothing(
        self, queue: Inbox, exchange: str, tmp_path: Path, data: bytes
    ) -> None:
        (tmp_path / "queues" / f"{exchange}@q" / "1-0-0").write_bytes(data)
        (delivery,) = await receive(queue, 1)
        assert delivery.message.body == data
        assert "cannot be read" in delivery.unreadable
