"""How long to wait before the next try: exponential backoff with full jitter; nothing waits here.

Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

import random

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds, for a broker that is lost or busy


def pause(failures: int, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> float:
    """Seconds to wait after so many failures (1 or more): random, at most first * 2^(failures-1), or `longest`."""
    highest = min(longest, first * 2.0 ** min(failures - 1, 60))
    return random.uniform(0.0, highest)  # noqa: S311, it only spreads load
