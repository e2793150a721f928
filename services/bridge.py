"""Bridge: copies an exchange to another one, on another broker or the same: `mqasync run services.bridge`.

The environment names the two, BRIDGE_FROM and BRIDGE_TO; config.yml says which broker carries which:

    brokers: {rabbit: "amqp://...", kafka: "kafka://..."}
    exchanges: {CTH: {broker: rabbit}, CTH.copy: {broker: kafka}}
"""

import os

from mqasync import Message, Out, consumer

FROM = os.environ.get("BRIDGE_FROM", "bridge.from")
TO = os.environ.get("BRIDGE_TO", "bridge.to")


@consumer(exchange=FROM, id="bridge", to=TO, concurrency=100)
async def copy(body: bytes, message: Message) -> Out:
    """Publish the same body, id, key and headers; acknowledged on one side once the other side has confirmed it."""
    return Out(body, id=message.id, key=message.key, headers=message.headers)
