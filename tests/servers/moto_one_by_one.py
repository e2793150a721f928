"""moto_server whose SQS does one thing at a time; it runs in moto's own environment, nothing of mqasync is there.

moto serves each request in a thread, and its queues are not made for that: delete_message copies the list of
messages and puts the copy in the list's place, so what another thread sent meanwhile is lost, and two receives can
take the same message. A real SQS does neither. What waits for messages lets the others in.

And it asks for the time of each message in the queue several times in each request, by way of a datetime, which
made a queue of 640 messages take minutes; here it asks the clock.
"""

import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

from moto.server import main
from moto.sqs import models
from moto.sqs.models import SQSBackend

LOCK = threading.RLock()
LOOK_SECONDS = 0.05
receive_now = SQSBackend.receive_message


def one_by_one(method: Callable[..., Any]) -> Callable[..., Any]:
    def locked(*arguments: Any, **named: Any) -> Any:
        with LOCK:
            return method(*arguments, **named)

    return locked


def receive_message(
    self: Any, queue_name: str, count: int, wait_seconds_timeout: int, visibility_timeout: int, *more: Any, **named: Any
) -> Any:
    end = time.monotonic() + wait_seconds_timeout
    while True:
        with LOCK:
            messages = receive_now(self, queue_name, count, 0, visibility_timeout, *more, **named)
        if messages or time.monotonic() >= end:
            return messages
        time.sleep(LOOK_SECONDS)


for name, method in inspect.getmembers(SQSBackend, inspect.isfunction):
    if not name.startswith("_"):
        setattr(SQSBackend, name, one_by_one(method))
SQSBackend.receive_message = receive_message
SQSBackend.is_message_valid_based_on_retention_period = lambda *arguments: True  # nothing here is days old
models.unix_time = time.time
models.unix_time_millis = lambda: time.time() * 1000

main()
