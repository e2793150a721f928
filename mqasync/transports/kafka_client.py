"""What aiokafka's client does by itself and must not: make topics by asking for them; no request of ours is here."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aiokafka import errors as kafka

from .kafka_requests import BOOTSTRAP, Requests


def make_no_topics(client: Any) -> None:
    """Let an AIOKafkaClient ask for topics without making those that are not there.

    A server makes them if auto.create.topics.enable is on, and aiokafka asks again and again for all that it has
    ever used: a topic that was deleted would come back, with one partition and none of its settings.
    """
    requests = Requests(client)

    async def update(cluster: Any, topics: Collection[str] | None) -> bool:
        try:
            metadata = await requests.metadata(topics or None)  # None: of all topics
        except kafka.KafkaError as error:
            cluster.failed_update(error)
            return False
        if not metadata.brokers:  # none is ready yet, or again: those that were known may be soon
            return False
        cluster.update_metadata(metadata)
        if first := client._conns.pop(BOOTSTRAP, None):
            first.close()
        return True

    client._metadata_update = update
