"""Ways through aiormq that it does not offer: publish a batch, receive without a task each, hear of a block.

They use names that aiormq and pamqp do not promise: pyproject.toml pins both, tests/test_aiormq_fast.py
checks them, and where one is missing the public way is taken. Nothing else in mqasync knows these names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pamqp.frame
from aiormq import spec
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

Arrived = Callable[[spec.Basic.Deliver, spec.Basic.Properties, bytes], None]
Messages = Sequence[tuple[spec.Basic.Properties, bytes]]

DELIVER_NAMES = ("_on_deliver_frame", "_get_frame")
PUBLISH_NAMES = ("lock", "_split_body", "create_future")
BLOCKED_NAMES = ("_Connection__handle_connection_blocked", "_Connection__handle_connection_unblocked")
FAST = all(hasattr(Channel, name) for name in DELIVER_NAMES + PUBLISH_NAMES)


async def consume(channel: Any, queue: str, arrived: Arrived) -> str:
    """Start to consume and call `arrived(method, properties, body)` for each delivery; return the consumer tag.

    aiormq itself would start a task for each delivery.
    """

    async def deliver(frame: spec.Basic.Deliver) -> None:
        header = await channel._get_frame()
        body = b""
        while len(body) < header.body_size:
            body += (await channel._get_frame()).value
        arrived(frame, header.properties, body)

    def delivered(message: Any) -> None:
        arrived(message.delivery, message.header.properties, message.body)

    if FAST:
        channel._on_deliver_frame = deliver
    ok = await channel.basic_consume(queue, delivered)
    return str(ok.consumer_tag)


async def while_open(channel: Any, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` on the channel; raise when the channel closes.

    By itself aiormq would wait for ever to write to a connection that has ended with a full queue.
    """
    await channel.create_task(work)


def on_blocked(connection: Any, tell: Callable[[str], None]) -> None:
    """Call `tell(reason)` when RabbitMQ blocks the connection and `tell("")` when it takes messages again."""
    for name in BLOCKED_NAMES:
        if handle := getattr(connection, name, None):
            setattr(connection, name, partial(_tell_and_handle, tell, handle))


async def _tell_and_handle(tell: Callable[[str], None], handle: Callable[[Any], Awaitable[None]], frame: Any) -> None:
    tell(getattr(frame, "reason", ""))
    await handle(frame)


async def publish(channel: Any, exchange: str, routing_key: str, messages: Messages) -> None:
    """Publish `messages`, mandatory, and return when the broker has confirmed every one of them.

    Each needs a message_id of its own. Raises what aiormq's basic_publish raises. Not to be
    cancelled while the channel is used further.
    """
    if not FAST:
        publish_one = partial(channel.basic_publish, exchange=exchange, routing_key=routing_key, mandatory=True)
        await asyncio.gather(*(publish_one(body, properties=properties) for properties, body in messages))
        return
    try:
        for confirmation in await _write(channel, exchange, routing_key, messages):
            await confirmation
    finally:
        for properties, _ in messages:
            channel.message_id_delivery_tag.pop(properties.message_id, None)


async def _write(channel: Any, exchange: str, routing_key: str, messages: Messages) -> list[asyncio.Future[Any]]:
    """Write all frames in one piece; a future for each message's confirmation."""
    method = pamqp.frame.marshal(
        spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True), channel.number
    )
    frames: list[bytes] = []
    confirmations: list[asyncio.Future[Any]] = []
    async with channel.lock:  # the broker counts messages in the order they are written
        for properties, body in messages:
            header = ContentHeader(properties=properties, body_size=len(body))
            parts: list[ContentBody] = channel._split_body(body)
            frames.append(method)
            frames.append(pamqp.frame.marshal(header, channel.number))
            frames += [pamqp.frame.marshal(part, channel.number) for part in parts]
            channel.delivery_tag += 1
            confirmation = channel.create_future()
            confirmations.append(confirmation)
            channel.confirmations[channel.delivery_tag] = confirmation
            channel.message_id_delivery_tag[properties.message_id] = channel.delivery_tag
        drained = channel.create_future()
        await channel.write_queue.put(ChannelFrame(b"".join(frames), should_close=False, drain_future=drained))
        await drained
    return confirmations
