"""Converts durations ("10m") and rates ("4/m"), as people write them, to seconds; nothing else."""

from __future__ import annotations

import re

from .errors import ConfigurationError

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def rate(value: str) -> tuple[int, float]:
    """How many in how many seconds: "4/m" is 4 in 60 s. Raises ConfigurationError, quoting the value."""
    match = re.fullmatch(r"([1-9]\d*)\s*/\s*(s|m|h|d)", value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ConfigurationError(f"{value!r} is not a rate: write a number per s, m, h or d, such as 4/m")
    return int(match[1]), UNITS[match[2]]


def seconds(value: float | str) -> float:
    """Seconds in `value`: a number, or a number with one of the units ms, s, m, h, d.

    Raises ConfigurationError for anything else, quoting the value.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ConfigurationError(f"{value!r} is not a duration: write seconds, or a number with ms, s, m, h or d")
    return float(match[1]) * UNITS[match[2] or "s"]
