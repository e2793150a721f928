"""Celery with the pool `solo`: the worker handles one task after another in its own process."""

from __future__ import annotations

import signal
from typing import Any

from celery import Celery

from .common import EVENT, PREFETCH, Meter, main


def app_at(url: str) -> Celery:
    """With what it needs to lose nothing: confirmed, acknowledged late."""
    app = Celery("bench", broker=url)
    app.conf.update(
        broker_transport_options={"confirm_publish": True},
        task_acks_late=True,
        task_default_queue="celery.q",
        task_ignore_result=True,
        worker_prefetch_multiplier=PREFETCH,
        worker_redirect_stdouts=False,
    )
    return app


def publish(url: str, meter: Meter) -> None:
    """One after another."""
    app = app_at(url)

    @app.task(name="handle")
    def handle(event: dict[str, Any]) -> None: ...

    for _ in range(meter.total):
        handle.delay(EVENT)
        meter.seen()
    app.close()


def consume(url: str, meter: Meter) -> None:
    """Until the worker is asked to end, by the last task."""
    app = app_at(url)

    @app.task(name="handle")
    def handle(event: dict[str, Any]) -> None:
        if meter.seen():
            signal.raise_signal(signal.SIGTERM)

    app.Worker(pool="solo", concurrency=1, quiet=True).start()


if __name__ == "__main__":
    main(publish, consume)
