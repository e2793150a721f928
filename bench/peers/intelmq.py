"""An IntelMQ bot on Redis; it runs in library mode, as its own command refuses to be root."""

from __future__ import annotations

import json
import logging
import tempfile
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from intelmq.lib.bot import OutputBot
from intelmq.lib.pipeline import PipelineFactory

from .common import EVENT, Meter, main

MESSAGE = {"__type": "Event", "source.ip": EVENT["ip"], "comment": EVENT["note"]}


def settings(url: str) -> dict[str, Any]:
    """Where its Redis is, and its log."""
    ports = dict.fromkeys(("source_pipeline_port", "destination_pipeline_port", "statistics_port"), urlsplit(url).port)
    return {**ports, "logging_path": tempfile.gettempdir(), "logging_level": "WARNING"}


def publish(url: str, meter: Meter) -> None:
    """One after another, as a bot sends to the next one."""
    pipeline = PipelineFactory.create(
        logging.getLogger(), direction="destination", queues=["handle-queue"], pipeline_args=settings(url)
    )
    pipeline.connect()
    for _ in range(meter.total):
        pipeline.send(json.dumps(MESSAGE))
        meter.seen()


def consume(url: str, meter: Meter) -> None:
    """One after another, until the bot is asked to end."""

    class HandleOutputBot(OutputBot):
        def process(self) -> None:
            self.receive_message()
            self.acknowledge_message()
            if meter.seen():
                raise SystemExit

    with suppress(SystemExit):
        HandleOutputBot("handle", start=True, settings=settings(url))


if __name__ == "__main__":
    main(publish, consume)
