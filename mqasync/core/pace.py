"""Pace: the rate limit of one consumer, how many handlers may begin in a period; none is begun here."""

from __future__ import annotations

import asyncio
import time
from collections import deque


class Pace:
    """At most `count` begin within any `period` seconds, in this process."""

    def __init__(self, count: int, period: float) -> None:
        self._period = period
        self._begun = deque[float](maxlen=count)

    def begin(self) -> None:
        """One begins now."""
        self._begun.append(time.monotonic())

    def pause(self) -> float:
        """Seconds until the next one may begin."""
        if len(self._begun) < (self._begun.maxlen or 0):
            return 0.0
        return max(0.0, self._begun[0] + self._period - time.monotonic())

    async def wait(self) -> None:
        """Until the next one may begin."""
        while True:
            if not (pause := self.pause()):
                return
            await asyncio.sleep(pause)
