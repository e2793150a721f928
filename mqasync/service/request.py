"""Requester: a message out, what its handler returned back; how a handler's side replies is in handlers/reply.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from ..duration import seconds
from ..errors import RequestFailed, Unroutable
from ..handlers.codec import decoder
from ..handlers.reply import ERROR, REPLIES, REPLY_FOR, REPLY_TO
from ..handlers.step import outgoing
from ..message import Message, NaturalKey, Out, new_id
from ..program import Client
from ..transport import Delivery, check_name

if TYPE_CHECKING:
    from ..brokers.broker import Broker, Brokers
    from ..brokers.temporary import TemporaryQueue

DECODE = decoder(Any)


class Requester(Client):
    """`async with Requester() as request: answer = await request("hosts", {"ip": "192.0.2.7"}, timeout=5)`.

    Any number of requests may wait at the same time. `id` names the requester. `config` is the path of a config.yml,
    `broker` a URL that replaces its default broker.
    """

    def __init__(self, *, id: str = "requester", config: str | None = None, broker: str | None = None) -> None:
        super().__init__(id, config, broker)
        self._queue = new_id()
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._queues: dict[str, asyncio.Task[TemporaryQueue]] = {}  # of replies, by broker
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<requester {self.id}>"

    async def __aexit__(self, *error: object) -> None:
        for opening in self._queues.values():
            opening.cancel()
        await asyncio.gather(*self._queues.values(), return_exceptions=True)
        await self._stack.aclose()
        await super().__aexit__(*error)

    async def __call__(
        self,
        exchange: str,
        body: Any,
        *,
        to: str | None = None,
        timeout: float | str = 30.0,
        key: NaturalKey | None = None,
        headers: dict[str, str] | None = None,
        priority: int = 0,
    ) -> Any:
        """Publish `body` and return what its handler returned, decoded from JSON; of a generator a list.

        The consumer of every id at the exchange handles the request, and the first reply counts; with `to` only the
        consumer of that id gets it. It is handled once, without retries: an error of the handler is raised here as
        RequestFailed. Raises TimeoutError after `timeout` seconds (the request may still be handled then),
        Unroutable when there is no such queue, and otherwise what Producer.produce raises.
        """
        brokers = self._brokers
        out = Out(body, key=key, headers={} if headers is None else headers, priority=priority)
        message = outgoing(out, check_name("exchange", exchange), self.id)
        message.headers[REPLY_TO] = self._queue
        limit = seconds(timeout)
        waiting = self._waiting[message.id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limit):
                await self._send(brokers, message, to)
                return _value(await waiting)
        except TimeoutError:
            what = f"{exchange}/{to}" if to else exchange
            raise TimeoutError(f"no reply from {what} within {limit:g} s") from None
        finally:
            del self._waiting[message.id]

    async def _send(self, brokers: Brokers, message: Message, to: str | None) -> None:
        broker = brokers.route(message.exchange)
        opening = self._queues.get(broker.name)
        if opening is None or (opening.done() and opening.exception()):
            opening = self._queues[broker.name] = asyncio.create_task(self._open(broker))
        await asyncio.shield(opening)
        if to is None:
            await brokers.publish(message)
        elif not await brokers.send(message, check_name("id", to)):
            raise Unroutable(f"exchange {message.exchange!r} has no queue with the id {to!r}")

    async def _open(self, broker: Broker) -> TemporaryQueue:
        """The queue on that broker to which replies come."""
        from ..brokers.temporary import TemporaryQueue

        queue = TemporaryQueue(broker, REPLIES, self._queue, self._take, bound=False)
        return await self._stack.enter_async_context(queue)

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            waiting = self._waiting.get(delivery.message.headers.get(REPLY_FOR, ""))
            if waiting and not waiting.done():
                waiting.set_result(delivery.message)


def _value(reply: Message) -> Any:
    value = DECODE(reply.body)
    if ERROR in reply.headers:
        raise RequestFailed(f"{reply.producer}: {reply.headers[ERROR]}: {value}")
    return value
