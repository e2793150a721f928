"""What the programs here share: the message, what is measured of them, and their command line; no framework."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable

EVENT = {"ip": "192.0.2.1", "source": "bench", "note": "x" * 206}
BODY = json.dumps(EVENT).encode()
assert len(BODY) == 256
IN_FLIGHT = 200
PREFETCH = 100
EDGE = 200  # messages before and after those that are measured: connecting, first use and the end are not


class Meter:
    """CPU and wall seconds of `count` messages in the middle of `total`; `at_once` are published at once."""

    def __init__(self, count: int, at_once: int) -> None:
        self.count, self.total, self.at_once = count, EDGE + count + EDGE, at_once
        self.cpu = self.seconds = 0.0
        self._numbers = itertools.count(1)  # safe with threads

    def seen(self) -> bool:
        """One more message is done; true if it was the last."""
        number = next(self._numbers)
        if number == EDGE:
            self.cpu, self.seconds = time.process_time(), time.perf_counter()
        elif number == EDGE + self.count:
            self.cpu, self.seconds = time.process_time() - self.cpu, time.perf_counter() - self.seconds
        return number == self.total


Program = Callable[[str, Meter], object]


def main(publish: Program, consume: Program) -> None:
    """`python -m bench.peers.NAME publish|consume URL COUNT AT_ONCE`: prints CPU and wall seconds."""
    _, action, url, count, at_once = sys.argv
    meter = Meter(int(count), int(at_once))
    {"publish": publish, "consume": consume}[action](url, meter)
    print(meter.cpu, meter.seconds)


async def in_flight(meter: Meter, publish: Callable[[], Awaitable[object]]) -> None:
    """`publish()` for every message of `meter`, so many at once as it says."""
    numbers = iter(range(meter.total))

    async def work() -> None:
        for _ in numbers:
            await publish()
            meter.seen()

    await asyncio.gather(*(work() for _ in range(meter.at_once)))
