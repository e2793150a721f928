"""The memory transport keeps the contract."""

import pytest

from mqasync.brokers.connection import Connection
from mqasync.brokers.inbox import Inbox
from mqasync.message import new_id
from mqasync.transport import Features

from .conformance import Conformance, message, nothing, receive, retry


class TestMemory(Conformance):
    features = Features(durable=False, shared=False, counts_returns=False, max_bytes=128 * 1024 * 1024)

    @pytest.fixture
    def url(self) -> str:
        return f"memory:{new_id()}"

    async def test_what_was_acknowledged_is_not_retried_as_well(
        self, transport: Connection, queue: Inbox, exchange: str
    ) -> None:
        await transport.publish(exchange, [message(1)])
        held = await receive(queue, 1)
        await queue.ack(held)
        await retry(queue, held[0], 0.0)
        await nothing(queue)
