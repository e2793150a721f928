"""One producer and its client, watched until the cluster does not answer any more; no queue is known here."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import aiokafka
from aiokafka import errors as kafka
from aiokafka.conn import create_conn
from aiokafka.partitioner import DefaultPartitioner

from ..errors import BrokerBusy, BrokerLost, BrokerRefused
from ..message import Message
from .kafka_client import make_no_topics
from .kafka_errors import REFUSALS, REPLY_SECONDS, broker_errors, stopped
from .kafka_message import to_headers
from .kafka_requests import Requests
from .kafka_topics import MAX_MESSAGE_BYTES

WATCH_SECONDS = 1.0
TRIES, TRY_PAUSE = 3, 0.2  # a cluster that does not answer so often is lost
BATCH_BYTES = 256 * 1024
AHEAD = 1000  # milliseconds that our timestamps may be ahead of the clock
KEYED = DefaultPartitioner()  # as every client of Kafka does it
T = TypeVar("T")


class Connection:
    """Good until `lost` is set, which ends every call that is under way."""

    def __init__(self, arguments: dict[str, Any], lose: Callable[[str], None]) -> None:
        self._arguments, self._lose = arguments, lose
        self.producer = aiokafka.AIOKafkaProducer(
            **arguments,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=int(REPLY_SECONDS * 1000),
            max_batch_size=BATCH_BYTES,
            max_request_size=MAX_MESSAGE_BYTES,
        )
        make_no_topics(self.producer.client)
        self.requests = Requests(self.producer.client)
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._watching: asyncio.Task[None] | None = None
        self._turns: dict[str, int] = {}
        self._stamp = 0

    async def open(self) -> None:
        """Connect. Raises BrokerRefused where another attempt would fail in the same way."""
        try:
            await self.producer.start()
        except kafka.KafkaConnectionError as error:
            raise await self._why() or error from error
        self._watching = asyncio.create_task(self._watch())

    async def _why(self) -> Exception | None:
        """Connect once more to each server, since aiokafka swallows the reason, and return that."""
        client: Any = self.producer.client
        given = {name: value for name, value in self._arguments.items() if name != "bootstrap_servers"}
        why: Exception | None = None
        for host, port, _ in client.hosts:
            try:
                connection = await create_conn(host, port, request_timeout_ms=int(REPLY_SECONDS * 1000), **given)
                connection.close()
            except ssl.SSLCertVerificationError as error:
                return BrokerRefused(f"its certificate is not trusted: {error.verify_message.rstrip('.')}")
            except REFUSALS as error:
                why = error
                break
            except (OSError, TimeoutError, kafka.KafkaError) as error:
                why = error
        return why

    async def _watch(self) -> None:
        """Ask for the brokers, now and then; aiokafka alone would try for ever, and say nothing."""
        failures = 0
        while failures < TRIES:
            await asyncio.sleep(TRY_PAUSE if failures else WATCH_SECONDS)
            try:
                async with asyncio.timeout(REPLY_SECONDS):
                    await self.requests.cluster()
                failures = 0
            except TimeoutError:
                break
            except (kafka.KafkaError, OSError):
                failures += 1
        self.lose("no broker answers")

    def lose(self, reason: str) -> None:
        """End every call that is under way."""
        if not self.lost.done():
            self.lost.set_result(reason)
            self._lose(reason)

    async def call(self, operation: Awaitable[T], seconds: float | None = None) -> T:
        """The outcome of `operation`; BrokerLost as soon as the cluster is lost, BrokerBusy after `seconds`."""
        task = asyncio.ensure_future(operation)
        try:
            with broker_errors():
                both: list[asyncio.Future[Any]] = [task, self.lost]
                await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    return task.result()
        finally:
            if not task.done():
                task.cancel()
                task.add_done_callback(lambda task: task.cancelled() or task.exception())
        if self.lost.done():
            raise BrokerLost(self.lost.result())
        raise BrokerBusy(f"no answer within {seconds:g} s")

    async def write(self, topic: str, messages: Sequence[Message], due: float = 0.0) -> None:
        """Return when Kafka has all of them; raises what aiokafka raises.

        Messages with a key go to the partition of their key, the others of one call stay together, with the first
        that has a key: what is in one partition keeps its order.
        """
        partitions = sorted(await self.producer.partitions_for(topic))
        self._turns[topic] = self._turns.get(topic, int(time.monotonic() * 1000)) + 1
        keys = [None if message.key is None else message.key.encode() for message in messages]
        places = [None if key is None else KEYED(key, partitions, partitions) for key in keys]
        together = next(
            (place for place in places if place is not None), partitions[self._turns[topic] % len(partitions)]
        )
        # one stamp for each call, so that a consumer of several partitions can tell which call was first
        self._stamp = max(int(time.time() * 1000), min(self._stamp, int(time.time() * 1000) + AHEAD) + 1)
        write = partial(self.producer.send, topic, timestamp_ms=self._stamp)
        writing = []
        for message, key, place in zip(messages, keys, places, strict=True):
            partition = together if place is None else place
            writing.append(
                await write(value=message.body, key=key, partition=partition, headers=to_headers(message, due))
            )
        outcomes = await asyncio.gather(*writing, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def close(self) -> None:
        """Let go of it; takes as long as requests that nobody answers."""
        if self._watching:
            self._watching.cancel()
        self.lose("the transport was closed")
        # who waited for what is not written was told; stop() alone would go on to write it, for seconds
        client: Any = self.producer.client
        await stopped(self.producer._sender.close(), client)
        await stopped(self.producer.stop(), client)
