"""Load: publishers, a step and a sink at work in a thread of their own, and the ledger of what became of each message.

No fault is made here. The step lets some messages fail at first and rejects some, so that retries and
dead letters are under way when a fault strikes.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import uvloop

from mqasync import Message, Reject, consumer
from mqasync.brokers.broker import Brokers
from mqasync.config.settings import ExchangeSettings, Settings
from mqasync.core.channel import Channel
from mqasync.core.feed import waiting_for_queues
from mqasync.handlers.step import Step
from mqasync.message import new_id
from mqasync.transport import DEAD

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
PUBLISHERS = 50
FIRST_RETRIED = 5
MESSAGES = int(os.environ.get("MQASYNC_FAULT_MESSAGES", "1000"))  # in each fault; `make faults` takes 20,000
FEW = min(MESSAGES, 400)  # where the broker's stand-in takes about 50 a second through step and sink
PATIENCE = 60.0  # seconds from the end of a fault until everything must have been handled


class Ledger:
    """What became of each message, by its number."""

    def __init__(self) -> None:
        self.confirmed: set[int] = set()
        self.processed: Counter[int] = Counter()
        self.dead_lettered: Counter[int] = Counter()
        self.slowed = 0  # times that a handler was slow on purpose
        self.times: list[float] = []  # when messages were processed, by time.monotonic()

    @property
    def lost(self) -> set[int]:
        """Confirmed, but neither processed nor dead-lettered."""
        return self.confirmed - self.processed.keys() - self.dead_lettered.keys()

    @property
    def repeated(self) -> int:
        """How many times something was processed again."""
        return self.processed.total() - len(self.processed)

    def silence(self, back: float) -> float:
        """The longest time after `back` in which nothing was processed, in seconds: how long recovery took."""
        moments = [back, *(moment for moment in self.times if moment > back)]
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)


class Load:
    """`messages` to exchange E, through step E/step, to sink E.out/sink; some fail at first.

    With `slow`, every hundredth takes so many seconds the first time; with `pace`, each of the PUBLISHERS waits
    so many seconds between two. `options` are the exchanges' own.
    """

    def __init__(
        self,
        url: str,
        messages: int,
        loop: str,
        slow: float = 0.0,
        pace: float = 0.0,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.exchange = f"E{new_id()[:8]}"
        self.out = f"{self.exchange}.out"
        self.ledger = Ledger()
        self.messages = messages
        self.loop_name = loop
        self.deleted_dead = 0  # dead letters that an administrator deleted
        self.stop = False  # publish no more
        self.hold = threading.Event()  # clear: publishers pause
        self.error: BaseException | None = None
        self.depths: dict[str, int] = {}
        names = (self.exchange, self.out)
        self._settings = Settings(
            brokers={"main": url}, exchanges={name: ExchangeSettings(options=options or {}) for name in names}
        )
        self._slow, self._pace = slow, pace
        self._numbers = iter(range(messages))
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"load-{loop}", daemon=True)

    def start(self) -> None:
        """Publish, and return when messages go through, retried ones too."""
        self.begin()
        self.until_ready()
        self.hold.set()

    def begin(self) -> None:
        """Connect and publish the first few."""
        self._thread.start()

    def until_ready(self) -> None:
        """Wait until a retried message came through.

        A quorum queue that was declared less than a second before RabbitMQ 3.10.8 is killed forgets its TTL
        (4 of 4 times here), and what waits in it waits for ever: let the retry queue be older than that.
        """
        self.until(lambda: FIRST_RETRIED in self.ledger.processed, "a retried message is processed")

    def until(self, true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Wait until `true()`."""
        deadline = time.monotonic() + patience
        while not true():
            if self.error:
                raise self.error
            assert time.monotonic() < deadline, f"{self.loop_name}: not within {patience:g} s: {what}; {self}"
            time.sleep(0.01)

    @property
    def state(self) -> str:
        """That of its broker."""
        return self.brokers.route(self.exchange).state

    @property
    def held(self) -> int:
        """Deliveries in hand."""
        return sum(channel.held for channel in self.channels)

    def call(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        """Run a coroutine in the load's own event loop."""
        asyncio.run_coroutine_threadsafe(work(*arguments), self._event_loop).result(PATIENCE)

    def until_confirmed(self, part: float) -> None:
        """Wait until so large a part of the messages is confirmed."""
        self.until(lambda: len(self.ledger.confirmed) >= part * self.messages, f"{part:.0%} are confirmed")

    def __str__(self) -> str:
        ledger = self.ledger
        return (
            f"{len(ledger.confirmed):,} confirmed, {len(ledger.processed):,} processed,"
            f" {len(ledger.dead_lettered):,} dead-lettered,"
            f" {len(ledger.lost):,} not yet either, {ledger.repeated:,} processed again"
        )

    def finish(self, patience: float = PATIENCE) -> Ledger:
        """Let the publishers finish, wait until all is handled and the queues are empty, drain, close."""
        self.until(lambda: len(self.ledger.confirmed) == self.messages or self.stop, "all is published", patience)
        deadline = time.monotonic() + patience
        while self.ledger.lost and time.monotonic() < deadline and not self.error:
            time.sleep(0.02)
        self._finish.set()
        self._thread.join(PATIENCE)
        if self.error:
            raise self.error
        return self.ledger

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=LOOPS[self.loop_name]) as runner:
                runner.run(self._work())
        except BaseException as error:
            self.error = error

    async def _work(self) -> None:
        self._event_loop = asyncio.get_running_loop()
        brokers = self.brokers = Brokers(self._settings)
        self.channels = [self._channel(brokers, one) for one in self._consumers()]
        for channel in self.channels:
            await channel.declare()
        self._publish = waiting_for_queues(brokers.publish, None)
        receivers = [channel.start() for channel in self.channels]
        publishers = [asyncio.create_task(self._publish_all()) for _ in range(PUBLISHERS)]
        try:
            while not self._finish.is_set():
                for task in (*receivers, *publishers):
                    if task.done() and not task.cancelled() and (error := task.exception()):
                        raise error
                await asyncio.sleep(0.02)
            self.stop = True
            await asyncio.gather(*publishers)
            await self._look()
        finally:
            for channel in self.channels:
                await channel.drain(5.0)
            await brokers.close()

    async def _look(self) -> None:
        """Count what is left in the queues, once they had the time to become empty, and what is in the dead letters."""
        broker = self.brokers.route(self.exchange)
        deadline = time.monotonic() + 10
        for channel in self.channels:
            while (there := await channel.depth()) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            self.depths[channel.id] = there
        dead = await broker.call(lambda transport: transport.stats(self.exchange, "step" + DEAD))
        self.depths["dead"] = dead.total if dead else 0  # it is not there where a fault deleted it

    def _consumers(self) -> Iterator[Any]:
        ledger = self.ledger
        slowed: set[int] = set()

        @consumer(exchange=self.exchange, id="step", to=self.out, concurrency=50, backoff=0.1)
        async def step(body: dict[str, int], message: Message) -> dict[str, int]:
            n = body["n"]
            if self._slow and n % 100 == 50 and n not in slowed:
                slowed.add(n)
                ledger.slowed += 1
                await asyncio.sleep(self._slow)
            if n % 97 == FIRST_RETRIED and message.attempt == 1:
                raise ValueError("not at the first attempt")
            if n % 101 == 7:
                raise Reject("this one never")
            return body

        @consumer(exchange=self.out, id="sink", concurrency=50)
        async def sink(body: dict[str, int]) -> None:
            ledger.processed[body["n"]] += 1
            ledger.times.append(time.monotonic())

        yield step
        yield sink

    def _channel(self, brokers: Brokers, one: Any) -> Channel:
        return Channel(Step(one, brokers.publish, {}), brokers.route(one.exchange), self._observe)

    def _observe(self, event: str, message: Message) -> None:
        if event == "dead_lettered":
            self.ledger.dead_lettered[json.loads(message.body)["n"]] += 1

    async def _publish_all(self) -> None:
        for n in self._numbers:
            while n > FIRST_RETRIED and not self.hold.is_set():  # noqa: ASYNC110, it is set by another thread
                await asyncio.sleep(0.01)
            if self.stop:
                return
            await self._publish(Message(body=json.dumps({"n": n}).encode(), exchange=self.exchange))
            self.ledger.confirmed.add(n)
            if self._pace:
                await asyncio.sleep(self._pace)


def reconnected(load: Load) -> bool:
    return load.brokers.route(load.exchange).reconnects > 0


@contextmanager
def loads(url: str, messages: int, **options: Any) -> Iterator[list[Load]]:
    """A load on asyncio and one on uvloop at the same time, half of the messages each."""
    running = [Load(url, messages // 2, loop, **options) for loop in LOOPS]
    for load in running:
        load.begin()
    try:
        for load in running:
            load.until_ready()
        for load in running:
            load.hold.set()
        yield running
    finally:
        for load in running:
            load.stop = True
            load._finish.set()
            load._thread.join(PATIENCE)
