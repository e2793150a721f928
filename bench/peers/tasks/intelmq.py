"""An IntelMQ bot on Redis, without its pause of 15 s before a message is tried again."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from intelmq.lib.bot import OutputBot
from intelmq.lib.pipeline import PipelineFactory

from . import ledger

ADDRESSES = ("source_pipeline", "destination_pipeline", "statistics")
SETTINGS = {f"{name}_port": urlsplit(ledger.URL).port for name in ADDRESSES}
FIELD = "event_description.text"


class HandleOutputBot(OutputBot):
    """Its queue is `handle-queue`."""

    def process(self) -> None:
        """The task."""
        event = self.receive_message()
        asyncio.run(ledger.task(event[FIELD]))
        self.acknowledge_message()


@asynccontextmanager
async def publisher() -> AsyncIterator[ledger.Publish]:
    """Blocks; sends as a bot does to the next one."""
    pipeline = PipelineFactory.create(
        logging.getLogger(), direction="destination", queues=["handle-queue"], pipeline_args=SETTINGS
    )
    pipeline.connect()

    async def publish(name: str) -> None:
        pipeline.send(json.dumps({"__type": "Event", FIELD: name}))

    yield publish


if __name__ == "__main__":
    HandleOutputBot(
        "handle", start=True, settings={**SETTINGS, "logging_path": str(ledger.DIRECTORY), "error_retry_delay": 0}
    )
