"""The contract between the core and the transports: what a broker offers, what both call a delivery; no broker's code.

A transport lets its library do the work and its library's exceptions through. It never retries, logs, decodes a
body, times out, remembers what is lost or calls a handler: brokers/ does that, once, for all of them.
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
"""The dead letters of the queue (exchange, id) are the queue (exchange, id + DEAD), which is not bound."""

Options = Mapping[str, Mapping[str, Any]]
"""Native options by exchange, as Settings.native gives them; a transport checks its own."""


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What a transport can and cannot do; the user is told at start, docs are made from it."""

    durable: bool = True  # messages survive a restart of the broker
    shared: bool = True  # other processes can use the same queues
    counts_returns: bool  # Delivery.returned counts deliveries whose process died
    keeps_keys_together: bool = False  # messages of one key go to one consumer at a time, in order
    priorities: bool = False  # what has a higher Message.priority is received first
    max_bytes: int  # largest body
    batch: int = 256  # messages or deliveries in one call; the core splits
    batch_bytes: float = math.inf  # of bodies and headers in one publish or send; the core splits
    max_delay: float = math.inf  # seconds that send can delay by itself; the core sends early arrivals on
    longest_wait: float = 1.0  # seconds that one receive waits at most
    cancellable_receive: bool = False  # nothing is lost by it: the core does so to stop at once
    temporary: bool = False  # has queues that go by themselves; elsewhere the core deletes them
    beside: bool = False
    """For a queue that config.yml names, declare makes one of ours beside it; elsewhere it only looks for that."""


class QueueStats(msgspec.Struct, frozen=True):
    """How many messages are in a queue, and who is there for them."""

    waiting: int  # to be received now; on some brokers with those that some process holds
    delayed: int = 0  # to be received later, as far as the broker tells them from the others
    consumers: int | None = None  # subscriptions open to it, of all processes; None where the broker does not tell

    @property
    def total(self) -> int:
        """All of its messages."""
        return self.waiting + self.delayed


class Delivery(msgspec.Struct, eq=False):
    """A message in our hands, not settled yet."""

    message: Message
    subscription: Any = None  # settle it here, even after a reconnect; set by the core
    tag: Any = None  # the transport's own
    returned: int = 0  # how often it came back because nobody settled it, where the broker counts
    unreadable: str = ""  # why the transport cannot read it, only its body
    deaths: int = 0  # how often its process may have died, of the times that it returned; the core's own
    alone: int = 0  # how often it was about to be handled while nothing else was; the core's own
    moved: bool = False
    """Set by the transport when it may be another consumer's soon: it is released unless handling has begun."""


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

    Every call but publish, send, subscribe and receive is given up after 10 s (ping after 5 s): then it is cancelled
    and not awaited; three silent pings in a row are BrokerLost. Besides its library's exceptions it may raise ours.
    """

    features: Features
    errors: Errors
    warning: str
    """How this server, as it is set up, can lose what it has confirmed; known after open(), else empty."""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options; no input or output. Raises ConfigurationError."""

    async def open(self) -> None:
        """Connect. Raises ConfigurationError for files that the URL names and that cannot be used.

        It may set `features` and `warning` to what this server has.
        """

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
        """Start to receive from a declared queue, at most `prefetch` deliveries unsettled.

        The `limit` of receive sees to that; a broker that sends without being asked has to be told.
        """

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """What is in a queue now; None, or NoSuchQueue, if there is none. It makes and changes nothing.

        With features.beside it raises BrokerRefused where config.yml names a queue that has to exist and does not.
        """

    async def queues(self) -> list[tuple[str, str]] | None:
        """(exchange, id) of every queue that is there, dead letters too; None where the broker does not tell."""

    async def delete(self, exchange: str, id: str) -> None:
        """The queue and what is in it are gone; who is subscribed gets NoSuchQueue. It may raise that as well."""

    async def close(self) -> None:
        """Let go of everything, subscriptions too, even if some of it is broken. Called once, whatever open() did.

        The core has released what it could; what is unsettled still goes back, now or by its lease.
        """


class Subscription(Protocol):
    """What a consumer holds of one queue. The core settles each delivery once, at most features.batch in one call."""

    lease: float | None
    """Seconds until an unsettled delivery comes back by itself; None while the connection lasts."""

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Wait up to `timeout` seconds for the first, then return what there is: about `limit`, or more.

        `timeout` is 0 or at most features.longest_wait and at most a third of the lease. It is never called twice
        at once. Cancelled only when the transport has ended, or with features.cancellable_receive to stop at once.
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
        """Renew the lease from now. Only where there is one: a subscription without a lease has no such method."""

    async def close(self) -> None:
        """Receive no more. Called at most once, when everything was settled; not after the connection was lost."""


@runtime_checkable
class Pushed(Protocol):
    """The Subscription of a broker that sends without being asked."""

    async def stop(self) -> None:
        """It sends no more; what it sent and nobody received goes back. Called at most once, before all was settled."""


class Seen(Protocol):
    """The ids of the messages that one queue has handled. `known` and `add` raise what their library does."""

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are remembered."""

    async def add(self, ids: Sequence[str]) -> None:
        """Remember `ids` from now on."""

    async def close(self) -> None:
        """Let go of connections. Safe twice."""


def check_name(kind: str, name: object) -> str:
    """Return `name` if it can name an exchange or id on every broker; else raise ConfigurationError.

    Queues are called exchange.id, exchange.id.dead and exchange.id.retry.seconds: two different
    queues must never get the same name.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", name):
        rule = "it takes 1 to 80 of the characters A-Z a-z 0-9 . _ -"
    elif kind == "exchange" and name.startswith("amq."):
        rule = "names that start with 'amq.' belong to RabbitMQ"
    elif kind == "exchange" and name.endswith(".retry"):
        rule = "names that end with '.retry' are taken by delayed messages"
    elif kind == "id" and ("." in name or name == "dead"):
        rule = "an id has no dot and is not 'dead', which name dead letters and retries"
    else:
        return name
    raise ConfigurationError(f"{name!r} cannot be an {kind}: {rule}")
