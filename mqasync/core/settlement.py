"""Settlement: acknowledges, retries, dead-letters or requeues the deliveries of a channel; nothing is received."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import groupby

import msgspec
from msgspec.structs import replace

from ..brokers.backoff import pause
from ..brokers.broker import Broker
from ..brokers.inbox import Inbox
from ..brokers.publisher import unfit
from ..complaints import Complaints
from ..errors import BrokerError, BrokerLost, Expired, InvalidMessage
from ..handler import Binding
from ..handlers.attempt import DONE, Outcome
from ..handlers.failure import describe, inner
from ..message import Message
from ..transport import DEAD, Delivery
from .dead_letter import dead_letter
from .poison import copy

ACK_SECONDS = 0.002  # how long an acknowledgement waits for others, to be sent together
FLUSH_SECONDS = 5.0
MAX_KEPT = 10_000  # outcomes of deliveries whose connection was lost; the oldest are forgotten first

Observe = Callable[[str, Message], None]
"""Called with what became of each message: "acknowledged", "retried" or "dead_lettered"."""


Key = tuple[str, int, float]


def key(delivery: Delivery) -> Key:
    """Which attempt at which message it is; another message may be published with the same id."""
    message = delivery.message
    return message.id, message.attempt, message.time


def ignore(event: str, message: Message) -> None:
    """Observe nothing."""


class Counts(msgspec.Struct):
    """What has happened on a channel since it started."""

    received: int = 0
    handled: int = 0
    failed: int = 0  # attempts that did not succeed
    retried: int = 0
    dead_lettered: int = 0
    expired: int = 0  # dead-lettered, and not handled: older than `max_age`
    returned: int = 0  # redelivered because they were not settled
    duplicates: int = 0  # known to `dedup` and not handled again
    last_error: str = ""


class Settlement:
    """What one channel does with handled messages. Each delivery is settled once, or redelivered by the broker."""

    def __init__(self, consumer: Binding, prefetch: int, broker: Broker, observe: Observe) -> None:
        self.counts = Counts()
        self.complaints = Complaints()
        self._dead_letters = Complaints()  # of its own: retries just before must not hide that a message is given up
        self._exchange, self._id, self._options = consumer.exchange, consumer.id, consumer.options
        self._prefetch = prefetch
        self._broker = broker
        self._observe = observe
        self.kept: dict[Key, Outcome] = {}  # see keep_outcome
        self._acknowledged: deque[Key] = deque(maxlen=2 * prefetch)  # the last ones
        self._done: list[Delivery] = []  # handled, to be acknowledged together
        self._acking = 0  # of those in flight
        self._timer: asyncio.TimerHandle | None = None
        self._acks: set[asyncio.Task[None]] = set()
        self._losses = 0  # lost connections, which this process survived

    def count(self, deliveries: Sequence[Delivery]) -> None:
        """Count deliveries that have just arrived."""
        self.counts.received += len(deliveries)
        for delivery in deliveries:
            if delivery.returned:
                self.counts.returned += 1
                delivery.deaths = max(0, delivery.returned - self._losses)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """They are handled. Acknowledged together: half of the prefetch, or those of ACK_SECONDS.

        The last one in flight does not wait: quorum queues deliver sooner when acknowledgements come sooner.
        """
        self.counts.handled += len(deliveries)
        self._finish(deliveries)

    def skip(self, deliveries: Sequence[Delivery]) -> None:
        """They are duplicates of handled messages; acknowledged like the others."""
        self.counts.duplicates += len(deliveries)
        self._finish(deliveries)

    def _finish(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._observe("acknowledged", delivery.message)
        self._ack_soon(deliveries)

    def _ack_soon(self, deliveries: Sequence[Delivery]) -> None:
        self._done.extend(deliveries)
        if len(self._done) >= self._prefetch // 2:
            self._ack_now()
        elif self._timer is None:
            company = len(deliveries[-1].subscription.held) > len(self._done) + self._acking
            self._timer = asyncio.get_running_loop().call_later(ACK_SECONDS if company else 0.0, self._ack_now)

    def _ack_now(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        done, self._done = self._done, []
        if done:
            task = asyncio.create_task(self._ack(done))
            self._acks.add(task)
            task.add_done_callback(self._acks.discard)

    async def _ack(self, done: list[Delivery]) -> None:
        self._acking += len(done)
        for subscription, deliveries in by_subscription(done):
            try:
                await subscription.ack(deliveries)
            except BrokerError:
                self.keep_outcome(deliveries, DONE)
            self._acknowledged.extend([key(delivery) for delivery in deliveries])
        self._acking -= len(done)

    async def fail(self, delivery: Delivery, outcome: Outcome) -> None:
        """The attempt failed: retry the message, or dead-letter it after the last attempt or if a retry cannot help."""
        assert outcome.error
        message, options, error = delivery.message, self._options, outcome.error
        self.counts.failed += 1
        self.counts.expired += isinstance(error, Expired)
        problem = unfit(message)
        if problem:  # a foreign message: no broker would accept it again
            error = InvalidMessage(str(problem))
        self.counts.last_error = describe(error)
        what = f"{self._exchange}/{self._id}: message {message.id:.100}, attempt {message.attempt}: {describe(error)}"
        hopeless = outcome.kind == "rejected" or all(isinstance(one, options.reject_on) for one in inner(error))
        if problem or hopeless or message.attempt > options.retries:
            self._dead_letters.say(f"{what}; moved to the dead-letter queue")
            await self._dead_letter(delivery, error)
            return
        delay = pause(message.attempt, options.backoff, options.max_backoff)
        self.complaints.say(f"{what}; next attempt in {delay:.1f} s")
        await self._come_again([delivery], outcome, delay, 1)

    async def postpone(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Requeue with the delay that the handler asked for (Retry); this does not count as an attempt."""
        hopeless = [delivery for delivery in deliveries if unfit(delivery.message)]
        for delivery in hopeless:
            await self.fail(delivery, outcome)
        fit = [delivery for delivery in deliveries if delivery not in hopeless]
        await self._come_again(fit, outcome, outcome.delay, 0)

    async def _come_again(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float, attempts: int) -> None:
        """Replace them by copies, to be received in `delay` seconds, with `attempts` added to their attempt."""
        for subscription, mine in by_subscription(deliveries):
            messages = [one.message for one in mine]
            again = [replace(message, attempt=message.attempt + attempts, returned=0) for message in messages]
            try:
                await subscription.exchange(mine, again, delay)
            except BrokerLost:  # if only publishing failed they are requeued here, else by the broker
                self.keep_outcome(mine, outcome)
                await self.release(mine)
                continue
            self.counts.retried += len(mine)
            for message in messages:
                self._observe("retried", message)

    def keep_outcome(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """The broker could not be told: apply it when they are redelivered, instead of another attempt."""
        self._keep(map(key, deliveries), outcome)

    def _keep(self, keys: Iterable[Key], outcome: Outcome) -> None:
        self.kept |= dict.fromkeys(keys, outcome)
        while len(self.kept) > MAX_KEPT:
            del self.kept[next(iter(self.kept))]

    def lost(self) -> None:
        """The connection is lost, and with it perhaps the last acknowledgements: remember that those are done."""
        self._losses += 1
        self._keep(self._acknowledged, DONE)
        self._acknowledged.clear()

    def known(self, delivery: Delivery) -> bool:
        """Whether there is an outcome for it; see keep_outcome."""
        return delivery.returned > 0 and key(delivery) in self.kept  # else the id was published once more

    def outcome(self, delivery: Delivery) -> Outcome | None:
        """The outcome that was kept for it."""
        return self.kept.pop(key(delivery)) if self.known(delivery) else None

    def skips(self, delivery: Delivery) -> bool:
        """Whether it is known to be done; if so it is acknowledged."""
        if not self.known(delivery) or self.kept[key(delivery)] is not DONE:
            return False
        del self.kept[key(delivery)]
        self.skip([delivery])
        return True

    def answered(self, delivery: Delivery, error: BaseException) -> None:
        """The attempt failed and the requester got the error: neither retried nor dead-lettered."""
        self.counts.failed += 1
        self.counts.last_error = describe(error)
        self._finish([delivery])

    async def _dead_letter(self, delivery: Delivery, error: BaseException) -> None:
        """Publish the dead letter, and acknowledge the message when the broker has confirmed it."""
        dead = dead_letter(delivery.message, self._id, error)
        await self.declare_dead()  # it may have been deleted
        await self._broker.call(lambda transport: transport.send(self._exchange, self._id + DEAD, [dead]))
        self.counts.dead_lettered += 1
        self._observe("dead_lettered", dead)
        self._ack_soon([delivery])

    async def declare_dead(self) -> None:
        """Make sure that the dead-letter queue exists."""
        await self._broker.call(lambda transport: transport.declare(self._exchange, self._id + DEAD, bound=False))

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Requeue messages that were not handled; this does not count as an attempt."""
        for subscription, mine in by_subscription(deliveries):
            with suppress(BrokerError):
                await subscription.release([one for one in mine if not one.alone])
                await self.send_copies([one for one in mine if one.alone])  # the broker may count a requeue

    async def send_copies(self, deliveries: Sequence[Delivery], more: int = 0, delay: float = 0.0) -> None:
        """Replace each by a copy with a new delivery count, whose header ALONE is raised by `more`."""
        for subscription, mine in by_subscription(deliveries):
            await subscription.exchange(mine, [copy(one, one.alone + more) for one in mine], delay)

    async def finish(self, left: Sequence[Delivery]) -> None:
        """Send the outstanding acknowledgements and requeue what is left, within FLUSH_SECONDS."""
        self._ack_now()
        with suppress(TimeoutError):  # the broker is away: it will redeliver everything in flight by itself
            async with asyncio.timeout(FLUSH_SECONDS):
                await asyncio.gather(*self._acks)
                await self.release(left)


def by_subscription(deliveries: Iterable[Delivery]) -> list[tuple[Inbox, list[Delivery]]]:
    """The deliveries grouped by subscription: those from before a reconnect are settled at the old one."""
    groups = groupby(deliveries, key=lambda delivery: delivery.subscription)
    return [(subscription, list(group)) for subscription, group in groups]
