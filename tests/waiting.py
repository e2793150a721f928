"""Waiting for something to become true, in tests; no test."""

import asyncio
import time
from collections.abc import Callable

PATIENCE = 20.0  # seconds; far more than anything takes on an idle machine


async def until(true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until `true()`; say `what` did not come about after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        await asyncio.sleep(0.01)
