"""When a producer runs: once, at an interval, or by a cron expression; nothing is run or published here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, tzinfo
from difflib import get_close_matches
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError
from tzlocal import reload_localzone

from ..duration import seconds
from ..errors import ConfigurationError
from ..handler import Source, where


class Schedule:
    """When a producer runs: once at start, every so many seconds, or at the times of a cron expression, each once.

    `timezone` is the time zone of the cron expression, such as Europe/Berlin; by default that of this machine.
    Raises ConfigurationError, quoting the value.
    """

    def __init__(self, every: str | float | None, timezone: str | None = None) -> None:
        cron = every if isinstance(every, str) and len(every.split()) > 2 else None
        self._times: Iterator[datetime] | None = None
        self._period: float | None = None
        place = zone(timezone) if cron or timezone is not None else None
        try:
            if cron:
                now = datetime.fromtimestamp(time.time(), place)
                self._times = CronSim(cron, now)
                next(CronSim(cron, now))  # a 30th of February never comes
            elif every is not None:
                self._period = seconds(every)
        except (ConfigurationError, CronSimError, StopIteration):
            what = "is neither a duration like '10m' nor a cron expression like '30 6 * * *'"
            raise ConfigurationError(f"every={every!r} of a producer {what}") from None
        if timezone is not None and not cron:
            what = "is for a cron expression"
            raise ConfigurationError(f"timezone={timezone!r} of a producer {what}, and every={every!r} is not one")

    def wait(self, started: float | None) -> float | None:
        """Seconds until the next run, given when the last one started (time.time()); None if there is none.

        Each time of a cron expression comes once, even if the clock is set back; times in the past are skipped.
        """
        now = time.time()
        if self._times:
            return next((at.timestamp() - now for at in self._times if at.timestamp() > now), None)
        if started is None:
            return 0.0
        return None if self._period is None else max(0.0, started + self._period - now)


def schedule_of(source: Source[..., Any]) -> Schedule:
    """When that producer runs. Raises ConfigurationError, naming it."""
    try:
        return Schedule(source.every, source.timezone)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where(source.handler)}: {error}") from None


def zone(name: str | None) -> tzinfo:
    """The time zone of that name, or this machine's. Raises ConfigurationError, quoting the name."""
    try:
        return reload_localzone() if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        if name is None:
            what = f"the time zone of this machine (TZ={os.environ.get('TZ', '')!r}) has no name"
            raise ConfigurationError(
                f"{what}: set TZ to one like 'Europe/Berlin', or timezone= of the producer"
            ) from None
        close = get_close_matches(str(name), available_timezones(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "names are like 'Europe/Berlin' or 'UTC'"
        raise ConfigurationError(f"timezone={name!r} of a producer is not a time zone; {hint}") from None
