"""The contract between the core and the transports: what one broker must offer; no broker's code, no behaviour.

A transport lets its library do the work and its library's exceptions through. It never retries, logs, decodes a
body, times out, remembers what is lost or calls a handler: connection.py does that, once, for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from .errors import MqasyncError
from .message import Message
from .transport import Delivery, Features, Options, QueueStats

Sign = type[BaseException] | str
"""A class of exceptions of the client library, or a piece of "Class: text" of one."""

Meaning = tuple[type[MqasyncError], Sequence[Sign]] | tuple[type[MqasyncError], Sequence[Sign], str]
"""Our error, the signs of it, and what to say where the library's own words would help nobody."""

Errors = Sequence[Meaning]
"""What the library's exceptions mean, in order. What no sign fits is BrokerLost.

NoSuchQueue: one queue is gone, not the connection. BrokerBusy: the core repeats it after a pause. BrokerRefused: no
for good. BrokerLost: the connection is gone. Unroutable, MessageTooLarge and ConfigurationError are possible too.
"""


class Transport(Protocol):
    """One broker behind one URL, from open() to close(). The core makes a new one after the first BrokerLost.

    Every call but publish, send and subscribe is given up after 10 s; then it is cancelled and not awaited.
    """

    features: Features
    errors: Errors
    warning: str
    """How this server, as it is set up, can lose what it has confirmed; known after open(), else empty."""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options; no input or output. Raises ConfigurationError."""

    async def open(self) -> None:
        """Connect. Raises ConfigurationError for files that the URL names and that cannot be used."""

    async def ping(self) -> None:
        """Any answer will do, except that BrokerBusy says that the broker takes no messages for now, and why."""

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """From its return on, nothing published to `exchange` is missed by queue (exchange, id).

        With bound=False only `send` reaches the queue. `temporary`, only where features.temporary: it goes by itself
        about a minute after nobody is subscribed any more. Repeatable, always with the same arguments.
        """

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Return when the broker has all of them safely, at most features.batch of them.

        Raises Unroutable when no queue is bound to `exchange`, where the broker tells; then none was taken.
        """

    async def bound(self, exchange: str) -> bool:
        """Whether any queue is bound to `exchange`; True where publish tells by itself."""

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Like publish, to that one queue, to be received `delay` seconds from now or a second later.

        The core has declared or seen the queue within 10 s. `delay` is at most features.max_delay.
        """

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> Subscription:
        """Start to receive from a declared queue, at most `prefetch` deliveries unsettled."""

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """What is in a queue now; None if there is no such queue. It makes and changes nothing."""

    async def queues(self) -> list[tuple[str, str]] | None:
        """(exchange, id) of every queue that is there, dead letters too; None where the broker does not tell."""

    async def delete(self, exchange: str, id: str) -> None:
        """The queue and what is in it are gone; who is subscribed gets NoSuchQueue."""

    async def close(self) -> None:
        """Let go of everything; what is unsettled goes back, now or by its lease. Called once."""


class Subscription(Protocol):
    """What a consumer holds of one queue. The core settles each delivery once, at most features.batch in one call."""

    lease: float | None
    """Seconds until an unsettled delivery comes back by itself; None while the connection lasts."""

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Wait up to `timeout` seconds for the first, then return what there is: about `limit`, or more.

        `timeout` is 0 or at most features.longest_wait and at most a third of the lease. It is never called twice
        at once. Cancelled, only when the transport has ended.
        """

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done for good; may return before the broker has it. After the lease has ended it has no effect."""

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Back to the queue at once, not counted as a return."""

    async def postpone(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Back to the queue, to come again in `delay` seconds or earlier, since it has come too early.

        Only where the broker can: where a subscription has no such method the core sends the message anew.
        """

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Renew the lease from now; only called where there is one."""

    async def close(self) -> None:
        """Receive no more. Called once, when everything was settled, before Transport.close."""


@runtime_checkable
class Pushed(Protocol):
    """The Subscription of a broker that sends without being asked."""

    async def stop(self) -> None:
        """It sends no more; what it sent and nobody received goes back. Called once, before all was settled."""


class Seen(Protocol):
    """The ids of the messages that one queue has handled. `known` and `add` raise what their library does."""

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are remembered."""

    async def add(self, ids: Sequence[str]) -> None:
        """Remember `ids` from now on."""

    async def close(self) -> None:
        """Let go of connections. Safe twice."""
