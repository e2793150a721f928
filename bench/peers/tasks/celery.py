"""Celery; with the safer setting it confirms what is published, acknowledges late, and retries."""

from __future__ import annotations

import asyncio
from typing import Any

from celery import Celery

from . import ledger

app = Celery("tasks", broker=ledger.URL)
options: dict[str, Any] = {}
if ledger.SAFE:
    app.conf.update(
        broker_transport_options={"confirm_publish": True}, task_acks_late=True, task_reject_on_worker_lost=True
    )
    options = {"autoretry_for": (Exception,), "retry_backoff": True}


@app.task(**options)
def handle(name: str) -> None:
    """The task."""
    asyncio.run(ledger.task(name))


publisher = ledger.blocking(handle.delay)  # it declares the queue
