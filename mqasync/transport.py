"""The contract between the core and the transports: what a broker offers, what a delivery is; no broker's code.

A transport lets its client library do the work, and does not catch its exceptions. It never retries, logs, decodes a
body, times out, remembers that it is lost or calls a handler: brokers/ does that, once, for all of them.
To settle a delivery is to acknowledge, release (requeue) or postpone it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from .errors import ConfigurationError, MqasyncError
from .message import Message

DEAD = ".dead"
"""The dead-letter queue of the queue (exchange, id) is the queue (exchange, id + DEAD), which is not bound."""

Options = Mapping[str, Mapping[str, Any]]
"""The broker's own options by exchange, as Settings.native returns them; the transport checks them."""


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What a transport can and cannot do; logged at start, and part of docs/brokers.md."""

    durable: bool = True  # messages survive a restart of the broker
    shared: bool = True  # other processes can use the same queues
    counts_returns: bool  # Delivery.returned counts deliveries whose process died
    keeps_keys_together: bool = False  # messages of one key go to one consumer at a time, in order
    priorities: bool = False  # messages with a higher Message.priority are received first
    max_bytes: int  # of a body
    batch: int = 256  # messages or deliveries in one call; the core splits
    batch_bytes: float = math.inf  # of bodies and headers in one publish or send; the core splits
    max_delay: float = math.inf  # seconds that send can delay by itself; the core delays early arrivals again
    longest_wait: float = 1.0  # seconds that one receive waits at most
    cancellable_receive: bool = False  # cancelling it loses nothing: the core does so to stop immediately
    temporary: bool = False  # the broker itself deletes temporary queues; elsewhere the core does
    beside: bool = False
    """Where config.yml names a queue, declare creates one of ours beside it; else it only checks that it exists."""


class QueueStats(msgspec.Struct, frozen=True):
    """How many messages and consumers a queue has."""

    waiting: int  # to be received now; on some brokers including those in flight
    delayed: int = 0  # to be received later, as far as the broker distinguishes them from the others
    consumers: int | None = None  # open subscriptions, of all processes; None where the broker does not say

    @property
    def total(self) -> int:
        """All of its messages."""
        return self.waiting + self.delayed


class Delivery(msgspec.Struct, eq=False):
    """A message in flight: delivered to this process, not settled yet."""

    message: Message
    subscription: Any = None  # where to settle it, even after a reconnect; set by the core
    tag: Any = None  # the transport's own data
    returned: int = 0  # how often it was redelivered because it was not settled, where the broker counts that
    unreadable: str = ""  # why the transport can read its body only; empty if it can read everything
    deaths: int = 0  # of the times in `returned`, those in which its process may have died; set by the core
    alone: int = 0  # how often it was about to be handled with no other handler running; set by the core
    moved: bool = False
    """Set by the transport when another consumer may get it soon: it is requeued unless its handler has begun."""


Sign = type[BaseException] | str
"""A class of exceptions of the client library, or a part of the "Class: text" of one."""

Meaning = tuple[type[MqasyncError], Sequence[Sign]] | tuple[type[MqasyncError], Sequence[Sign], str]
"""Our error, its signs, and a text to replace the library's own where that would not help."""

Errors = Sequence[Meaning]
"""What the library's exceptions mean; the first match counts. Without a match it is BrokerLost.

NoSuchQueue: one queue is gone, not the connection. BrokerBusy: the core tries again after a pause. BrokerRefused:
refused permanently. BrokerLost: the connection is gone. Unroutable, MessageTooLarge and ConfigurationError are
possible too.
"""


class Transport(Protocol):
    """The broker at one URL, from open() to close(). After the first BrokerLost the core makes a new Transport.

    Every call but publish, send, subscribe and receive is given up after 10 s (ping after 5 s): it is cancelled and
    not awaited. Three pings in a row without an answer are BrokerLost. Besides its library's exceptions it may raise
    ours.
    """

    features: Features
    errors: Errors
    warning: str
    """How this server, as configured, can lose messages that it has confirmed; known after open(), else empty."""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options, without any I/O. Raises ConfigurationError."""

    async def open(self) -> None:
        """Connect. Raises ConfigurationError if a file that the URL names cannot be used.

        It may set `features` and `warning` to those of this server.
        """

    async def ping(self) -> None:
        """Return when the broker answers. Raises BrokerBusy, with the reason, if it accepts no messages for now."""

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Create the queue (exchange, id); once this returns, it misses nothing that is published to `exchange`.

        With bound=False only `send` reaches the queue. `temporary`, only with features.temporary: the broker deletes
        it about a minute after its last subscription has ended. Repeatable, always with the same arguments.
        """

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Publish at most features.batch messages, and return when the broker has confirmed all of them.

        Raises Unroutable when no queue is bound to `exchange`, where the broker reports that: none was accepted.
        """

    async def bound(self, exchange: str) -> bool:
        """Whether any queue is bound to `exchange`; True where publish itself raises Unroutable."""

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Like publish, but to that one queue, to be received in `delay` seconds, or up to a second later.

        The core has declared or seen the queue in the last 10 s. `delay` is at most features.max_delay.
        """

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> Subscription:
        """Start to receive from a declared queue, with at most `prefetch` unsettled deliveries.

        The `limit` of receive ensures that; a broker that pushes messages needs `prefetch`.
        """

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """How many messages are in a queue; None, or NoSuchQueue, if it does not exist. Creates and changes nothing.

        With features.beside it raises BrokerRefused where config.yml names a queue that must exist and does not.
        """

    async def queues(self) -> list[tuple[str, str]] | None:
        """(exchange, id) of every existing queue, dead-letter queues too; None where the broker cannot list them."""

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the queue with its messages; its subscriptions raise NoSuchQueue. This may raise that as well."""

    async def close(self) -> None:
        """Close everything, subscriptions too, even if some of it is broken. Called once, whatever open() did.

        The core has released what it could; other unsettled messages are requeued now or when their lease ends.
        """


class Subscription(Protocol):
    """A subscription to one queue. The core settles each delivery once, at most features.batch in one call."""

    lease: float | None
    """Seconds until the broker redelivers an unsettled message; None if it waits for the end of the connection."""

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Wait up to `timeout` seconds for the first message, then return those available: about `limit`, or more.

        `timeout` is 0, or at most features.longest_wait and at most a third of the lease. There is never more than
        one call at a time. It is cancelled only when the transport has ended, or with features.cancellable_receive
        to stop immediately.
        """

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge; may return before the broker knows. It has no effect after the lease has ended."""

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Requeue immediately, without counting it in Delivery.returned."""

    async def postpone(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Requeue what has come too early, to be redelivered in `delay` seconds or earlier.

        Only where the broker can: without this method the core publishes the message again.
        """

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Renew the lease, from now on. A subscription without a lease has no such method."""

    async def close(self) -> None:
        """Stop receiving. Called at most once, when everything is settled; not after the connection was lost."""


@runtime_checkable
class Pushed(Protocol):
    """The Subscription of a broker that pushes messages."""

    async def stop(self) -> None:
        """End the pushing, and requeue what was not received yet. Called at most once, before all is settled."""


class Seen(Protocol):
    """The ids of the messages that one queue has handled. `known` and `add` raise what their library raises."""

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are remembered."""

    async def add(self, ids: Sequence[str]) -> None:
        """Remember `ids` from now on."""

    async def close(self) -> None:
        """Close its connections. It can be called twice."""


def check_name(kind: str, name: object) -> str:
    """Return `name` if every broker can use it for an exchange or id; else raise ConfigurationError.

    Queues are called exchange.id, exchange.id.dead and exchange.id.retry.seconds: two different
    queues must never get the same name.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", name):
        rule = "it takes 1 to 80 of the characters A-Z a-z 0-9 . _ -"
    elif kind == "exchange" and name.startswith("amq."):
        rule = "names that start with 'amq.' are reserved for RabbitMQ"
    elif kind == "exchange" and name.endswith(".retry"):
        rule = "names that end with '.retry' are reserved for delayed messages"
    elif kind == "id" and ("." in name or name == "dead"):
        rule = "an id has no dot and is not 'dead', which are kept for dead-letter and retry queues"
    else:
        return name
    raise ConfigurationError(f"{name!r} cannot be an {kind}: {rule}")
