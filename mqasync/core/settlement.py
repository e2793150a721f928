"""Settlement: how each delivery of a channel is settled: ack, retry, dead-letter, release; nothing is received here."""

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

ACK_SECONDS = 0.002  # how long a lone acknowledgement waits for company
FLUSH_SECONDS = 5.0
MAX_KEPT = 10_000  # outcomes of deliveries that the connection was lost of; the oldest go first

Observe = Callable[[str, Message], None]
"""Told what became of each message: "acknowledged", "retried" or "dead_lettered"."""


Key = tuple[str, int, float]


def key(delivery: Delivery) -> Key:
    """Which attempt at which message it is; somebody may publish another one with the same id."""
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
    returned: int = 0  # came back without having been settled
    repeated: int = 0  # known to `dedup`, and not handled again
    last_error: str = ""


class Settlement:
    """What one channel does with what it has handled. Each delivery is settled once, or comes back by itself."""

    def __init__(self, consumer: Binding, prefetch: int, broker: Broker, observe: Observe) -> None:
        self.counts = Counts()
        self.complaints = Complaints()
        self._exchange, self._id, self._options = consumer.exchange, consumer.id, consumer.options
        self._prefetch = prefetch
        self._broker = broker
        self._observe = observe
        self.kept: dict[Key, Outcome] = {}  # see keep_outcome
        self._acknowledged: deque[Key] = deque(maxlen=2 * prefetch)  # the last ones
        self._done: list[Delivery] = []  # handled, to be acknowledged together
        self._acking = 0  # of those in hand
        self._timer: asyncio.TimerHandle | None = None
        self._acks: set[asyncio.Task[None]] = set()
        self._losses = 0  # of the connection, which cost no process its life

    def count(self, deliveries: Sequence[Delivery]) -> None:
        """They have just come."""
        self.counts.received += len(deliveries)
        for delivery in deliveries:
            if delivery.returned:
                self.counts.returned += 1
                delivery.deaths = max(0, delivery.returned - self._losses)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Handled for good; acknowledged together: half of the prefetch, or those of ACK_SECONDS.

        The last one in hand does not wait: quorum queues deliver sooner when acknowledgements come sooner.
        """
        self.counts.handled += len(deliveries)
        self._finish(deliveries)

    def skip(self, deliveries: Sequence[Delivery]) -> None:
        """Handled for good some time before; acknowledged like the others."""
        self.counts.repeated += len(deliveries)
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
        """Not handled: back for a later attempt, or among the dead letters if another attempt is no use."""
        assert outcome.error
        message, options, error = delivery.message, self._options, outcome.error
        self.counts.failed += 1
        self.counts.expired += isinstance(error, Expired)
        problem = unfit(message)
        if problem:  # a stranger's: no broker would take it again
            error = InvalidMessage(str(problem))
        self.counts.last_error = describe(error)
        what = f"{self._exchange}/{self._id}: message {message.id:.100}, attempt {message.attempt}: {describe(error)}"
        hopeless = outcome.kind == "rejected" or all(isinstance(one, options.reject_on) for one in inner(error))
        if problem or hopeless or message.attempt > options.retries:
            self.complaints.say(f"{what}; moved to the dead-letter queue")
            await self._dead_letter(delivery, error)
            return
        delay = pause(message.attempt, options.backoff, options.max_backoff)
        self.complaints.say(f"{what}; next attempt in {delay:.1f} s")
        await self._come_again([delivery], outcome, delay, 1)

    async def postpone(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Back when the handler wished, which is no failed attempt."""
        hopeless = [delivery for delivery in deliveries if unfit(delivery.message)]
        for delivery in hopeless:
            await self.fail(delivery, outcome)
        fit = [delivery for delivery in deliveries if delivery not in hopeless]
        await self._come_again(fit, outcome, outcome.delay, 0)

    async def _come_again(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float, attempts: int) -> None:
        """In `delay` seconds, with so many attempts more."""
        for subscription, mine in by_subscription(deliveries):
            messages = [one.message for one in mine]
            again = [replace(message, attempt=message.attempt + attempts, returned=0) for message in messages]
            try:
                await subscription.exchange(mine, again, delay)
            except BrokerLost:  # perhaps only on the way to the retries: then put back, else back by itself
                self.keep_outcome(mine, outcome)
                await self.release(mine)
                continue
            self.counts.retried += len(mine)
            for message in messages:
                self._observe("retried", message)

    def keep_outcome(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """It could not be told to the broker: to be applied when they come back, instead of another attempt."""
        self._keep(map(key, deliveries), outcome)

    def _keep(self, keys: Iterable[Key], outcome: Outcome) -> None:
        self.kept |= dict.fromkeys(keys, outcome)
        while len(self.kept) > MAX_KEPT:
            del self.kept[next(iter(self.kept))]

    def lost(self) -> None:
        """The connection is: what was acknowledged a moment ago, but has not arrived, comes back, and is done."""
        self._losses += 1
        self._keep(self._acknowledged, DONE)
        self._acknowledged.clear()

    def known(self, delivery: Delivery) -> bool:
        """Whether there is an outcome for it; see keep_outcome."""
        return delivery.returned > 0 and key(delivery) in self.kept  # else somebody has published the id once more

    def outcome(self, delivery: Delivery) -> Outcome | None:
        """The one that was kept for it."""
        return self.kept.pop(key(delivery)) if self.known(delivery) else None

    def skips(self, delivery: Delivery) -> bool:
        """Whether it is known to be done, and then acknowledges it."""
        if not self.known(delivery) or self.kept[key(delivery)] is not DONE:
            return False
        del self.kept[key(delivery)]
        self.skip([delivery])
        return True

    def answered(self, delivery: Delivery, error: BaseException) -> None:
        """Not handled, and who asked for it knows: neither retried nor dead-lettered."""
        self.counts.failed += 1
        self.counts.last_error = describe(error)
        self._finish([delivery])

    async def _dead_letter(self, delivery: Delivery, error: BaseException) -> None:
        """Publish the dead letter, and acknowledge the message when the broker has it."""
        dead = dead_letter(delivery.message, self._id, error)
        await self.declare_dead()  # somebody may have deleted it
        await self._broker.call(lambda transport: transport.send(self._exchange, self._id + DEAD, [dead]))
        self.counts.dead_lettered += 1
        self._observe("dead_lettered", dead)
        self._ack_soon([delivery])

    async def declare_dead(self) -> None:
        """Make sure that the queue of the dead letters exists."""
        await self._broker.call(lambda transport: transport.declare(self._exchange, self._id + DEAD, bound=False))

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Put back what was not handled, not counted as an attempt."""
        for subscription, mine in by_subscription(deliveries):
            with suppress(BrokerError):
                await subscription.release([one for one in mine if not one.alone])
                await self.send_copies([one for one in mine if one.alone])  # its broker may count what is put back

    async def send_copies(self, deliveries: Sequence[Delivery], more: int = 0, delay: float = 0.0) -> None:
        """For each a fresh copy in its queue, which the broker has not counted yet; it is to run alone `more` times."""
        for subscription, mine in by_subscription(deliveries):
            await subscription.exchange(mine, [copy(one, one.alone + more) for one in mine], delay)

    async def finish(self, left: Sequence[Delivery]) -> None:
        """Send the acknowledgements that are due and put back what is left, within FLUSH_SECONDS."""
        self._ack_now()
        with suppress(TimeoutError):  # the broker is away: everything in hand comes back by itself
            async with asyncio.timeout(FLUSH_SECONDS):
                await asyncio.gather(*self._acks)
                await self.release(left)


def by_subscription(deliveries: Iterable[Delivery]) -> list[tuple[Inbox, list[Delivery]]]:
    """The deliveries in groups: those before a reconnect are settled where they came from."""
    groups = groupby(deliveries, key=lambda delivery: delivery.subscription)
    return [(subscription, list(group)) for subscription, group in groups]
