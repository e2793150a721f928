"""The names of topics and queues; two different ones never get the same. No connection here.

SNS and SQS take letters, digits, - and _ only. So _ is written __ and . is written _-, which can be read back;
a queue's name that is longer than SQS takes is cut and ends in a hash behind _0, which is in no other name.
"""

from __future__ import annotations

import hashlib
import re

MAX_QUEUE = 80
SUFFIX = ".fifo"  # AWS demands it


def topic_name(exchange: str, fifo: bool) -> str:
    """At most 165 of the 256 characters that SNS takes."""
    return _written(exchange) + (SUFFIX if fifo else "")


def queue_name(exchange: str, id: str, fifo: bool) -> str:
    """See transport.check_name for why exchange.id names one queue only."""
    name, suffix = _written(f"{exchange}.{id}"), SUFFIX if fifo else ""
    if len(name + suffix) > MAX_QUEUE:
        end = f"_0{hashlib.sha256(name.encode()).hexdigest()[:40]}{suffix}"
        name = name[: MAX_QUEUE - len(end)].rstrip("_")
        return name + end
    return name + suffix


def read(name: str) -> str:
    """The exchange.id of a queue's name; nonsense for one that was cut or is not ours."""
    return re.sub("_[_-]", lambda found: "_" if found[0] == "__" else ".", name.removesuffix(SUFFIX))


def _written(name: str) -> str:
    return name.replace("_", "__").replace(".", "_-")
