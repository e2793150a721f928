"""The two HTTP clients of one transport, SNS and SQS, and their requests; no message, no queue is known here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from ..errors import BrokerLost
from .sqs_errors import broker_errors
from .sqs_settings import Settings

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5.0  # longer than that AWS does not take, apart from the wait of a receive
MAX_CONNECTIONS = 1_000  # each queue's receive occupies one; the library's own limit of 10 would stall the rest

Answer = dict[str, Any]


class Connection:
    """Requests to SNS and SQS, each made once, its errors those of mqasync.errors."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._closed = False
        self._sns: Any = None
        self._sqs: Any = None

    async def open(self) -> None:
        """Make the clients; nothing is sent yet."""
        settings = self._settings
        config = AioConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=settings.wait + ANSWER_SECONDS,
            retries={"total_max_attempts": 1},  # the core repeats
            max_pool_connections=MAX_CONNECTIONS,
            parameter_validation=False,  # AWS checks them too
        )
        session = get_session()
        made = {"region_name": settings.region, "endpoint_url": settings.endpoint or None, "config": config}
        with broker_errors():
            self._sns = await self._stack.enter_async_context(session.create_client("sns", **made))
            self._sqs = await self._stack.enter_async_context(session.create_client("sqs", **made))

    async def sns(self, operation: str, **parameters: Any) -> Answer:
        """One request to SNS."""
        return await self._request(self._sns, operation, parameters)

    async def sqs(self, operation: str, **parameters: Any) -> Answer:
        """One request to SQS."""
        return await self._request(self._sqs, operation, parameters)

    async def _request(self, client: Any, operation: str, parameters: dict[str, Any]) -> Answer:
        if self._closed or client is None:
            raise BrokerLost("the connection to AWS was closed")
        with broker_errors():
            answer: Answer = await getattr(client, operation)(**parameters)
        return answer

    async def close(self) -> None:
        """Close the clients and what they have under way. Safe twice."""
        if not self._closed:
            self._closed = True
            await asyncio.shield(self._stack.aclose())


async def pages(request: Callable[..., Awaitable[Answer]], operation: str, field: str, **parameters: Any) -> list[Any]:
    """What `field` has in all pages of the answer to a `request`, which is that of sns or sqs."""
    found: list[Any] = []
    while True:
        answer = await request(operation, **parameters)
        found += answer.get(field, [])
        if not answer.get("NextToken"):
            return found
        parameters["NextToken"] = answer["NextToken"]
