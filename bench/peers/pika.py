"""pika's BlockingConnection, by hand."""

from __future__ import annotations

import json

import pika
from pika.adapters.blocking_connection import BlockingChannel

from .common import EVENT, PREFETCH, Meter, main

QUEUE = "pika.q"


def publish(url: str, meter: Meter) -> None:
    """One after another; confirmed and mandatory."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        channel.confirm_delivery()
        properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        for _ in range(meter.total):
            channel.basic_publish("", QUEUE, json.dumps(EVENT).encode(), properties, mandatory=True)
            meter.seen()


def consume(url: str, meter: Meter) -> None:
    """One after another."""

    def handle(
        channel: BlockingChannel, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        json.loads(body)
        last = meter.seen()
        channel.basic_ack(method.delivery_tag)
        if last:
            channel.stop_consuming()

    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(QUEUE, handle)
        channel.start_consuming()


if __name__ == "__main__":
    main(publish, consume)
