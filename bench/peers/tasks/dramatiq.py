"""Dramatiq, which retries by default; with the safer setting it confirms what is published."""

from __future__ import annotations

import asyncio

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from . import ledger

dramatiq.set_broker(RabbitmqBroker(url=ledger.URL, confirm_delivery=ledger.SAFE))


@dramatiq.actor
def handle(name: str) -> None:
    """The task."""
    asyncio.run(ledger.task(name))


publisher = ledger.blocking(handle.send)  # it declares the queue
