"""The contract between the core and the transports, and what both call a delivery; no broker's code.

A transport only declares, publishes, receives and settles. It never retries, logs, decodes
a body or calls a handler: the core does that, once, for all of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from .errors import ConfigurationError
from .message import Message

DEAD = ".dead"
"""The dead letters of the queue (exchange, id) are the queue (exchange, id + DEAD), which is not bound."""

Options = Mapping[str, Mapping[str, Any]]
"""Native options by exchange, as config.yml gives them; a transport checks its own."""


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What a transport can and cannot do; the user is told at start, docs are made from it."""

    durable: bool  # messages survive a restart of the broker
    shared: bool  # other processes can use the same queues
    counts_returns: bool  # Delivery.returned counts deliveries whose process died
    keeps_keys_together: bool = False  # messages of one key go to one consumer at a time, in order
    max_bytes: int  # largest body
    batch: int = 256  # messages or deliveries in one call; the core splits
    batch_bytes: float = math.inf  # of bodies and headers in one publish or send; the core splits
    max_delay: float = math.inf  # seconds that send can delay by itself; the core sends early arrivals on
    longest_wait: float = 1.0  # seconds that one receive waits at most
    cancellable_receive: bool = False  # nothing is lost by it: the core does so to stop at once
    temporary: bool = False  # has queues that go by themselves; elsewhere the core deletes them


class QueueStats(msgspec.Struct, frozen=True):
    """How many messages are in a queue, and who is there for them."""

    waiting: int  # to be received now; where the broker tells (SQLite, PostgreSQL), with those that some process holds
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
    """It may be somebody else's in a moment, so the transport sets: whoever has not begun with it releases it."""


class Transport(Protocol):
    """One broker behind one URL, for one connection's life: after BrokerLost the core makes a new one."""

    features: Features
    blocked: str
    """Why the broker takes no messages for now, where it says so; else empty."""
    warning: str
    """How this server, as it is set up, can lose messages it has confirmed; known after open(), else empty."""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options; no input or output. Raises ConfigurationError."""

    async def open(self) -> None:
        """Connect. Raises BrokerLost when nobody answers, BrokerBusy when the broker cannot yet, BrokerRefused for no.

        And ConfigurationError for files that the URL names and that cannot be used.
        """

    async def declare(self, exchange: str, id: str, bound: bool = True, expires: float | None = None) -> None:
        """From its return on, nothing published to `exchange` is missed by queue (exchange, id).

        With bound=False only `send` reaches the queue. With `expires` the broker deletes it by itself, and what
        is in it, once nobody has been subscribed to it for so many seconds, or later; such a queue need not
        survive the broker's restart. Repeatable. Raises BrokerRefused where the queue exists with other arguments.
        """

    async def delete(self, exchange: str, id: str) -> None:
        """The queue and what is in it are gone; nothing where it is not there. Subscriptions to it are lost."""

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Return when the broker has all of them safely; on BrokerLost or BrokerBusy any may be there.

        Raises Unroutable when no queue is bound to `exchange`; then none of them was taken.
        """

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Like publish, to that one declared queue, to be received `delay` seconds from now or later."""

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> Subscription:
        """Start to receive from a declared queue, at most `prefetch` deliveries unsettled.

        Raises BrokerBusy when this queue alone does not answer.
        """

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """What is in a queue now; None if there is no such queue. It makes and changes nothing."""

    async def queues(self) -> list[tuple[str, str]] | None:
        """(exchange, id) of every queue that is there, dead letters too; None where the broker does not tell.

        Those declared with `expires` may be missing.
        """

    async def close(self) -> None:
        """Let go of everything; what is unsettled goes back to its queue. Safe twice and in an outage."""


class Subscription(Protocol):
    """What a consumer holds of one queue."""

    lease: float | None
    """Seconds until an unsettled delivery comes back by itself; None while the connection lasts."""

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Wait up to `timeout` seconds for the first, then return what there is, at most `limit`.

        The core never cancels it. After close() it returns nothing, at once. Raises BrokerLost,
        also after the transport's close(): who waits then has to know that nothing comes any more.
        """

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done for good. An ack may get lost (then the message comes back). Raises BrokerLost."""

    async def retry(self, delivery: Delivery, delay: float) -> None:
        """Back to this queue alone, with attempt + 1, in `delay` seconds or later. Raises BrokerLost."""

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Back to the queue at once, not counted as an attempt. Raises BrokerLost."""

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Renew the lease from now. Raises BrokerLost."""

    async def close(self) -> None:
        """Stop receiving; settling stays possible. Safe twice and in an outage."""


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
