"""NATS JetStream through nats-py; no retrying, decoding or handling.

URL: nats://user:password@host:port, or natss:// for TLS, always verified. After "?":
    token (instead of user and password), lease (seconds until an unacknowledged message is redelivered, default 30;
    a queue has one lease, which the last URL that names it sets), sync=always (says that the server is configured
    so, and ends the warning: JetStream syncs to the disk every two minutes unless configured otherwise, and does not
    report that), cafile, certfile, keyfile.
Options: by exchange, settings of its stream: num_replicas, max_age (seconds), max_bytes, max_msgs, compression
    (none or s2). A full stream accepts no more messages; max_age drops older ones, acknowledged or not.
    `queue` of a consumer names an existing stream and durable consumer: STREAM/CONSUMER, see docs/existing.md.
Delivery: a stream for each exchange, mqasync-EXCHANGE, and a durable pull consumer of it for each id; dots in their
    names are written "~". A message is kept in a file until every queue has acknowledged it. Any program can publish
    to the subject mqasync.EXCHANGE. A delivery is leased: if a process does not extend the lease in time, another one
    gets the message as well. Messages in flight in a killed process are redelivered one lease later, and counted. A
    temporary queue is deleted a minute after the last request for messages, when all leases have ended (a server from
    before August 2025 does not wait for the leases).
Order: first in, first out with one consumer and no retries; requeued messages come first.
Delay: exact, by the wall clocks of sender and receiver: a consumer requeues messages that come too early. A retry
    is a new message, for its own queue alone, because JetStream counts deliveries and nothing else.
Dead letters: a consumer "id~dead" of the same stream.
What it cannot do: carry more than the server's max_payload, headers included (1 MiB by default; 128 KiB are
    reserved for headers); distinguish a requeued message from one whose process died (returned counts both);
    distinguish delayed messages from the others; report how many consumers a queue has, or whether it syncs to the
    disk (see `warning`); serve more than 512 waiting consumers of one id. For 10 seconds after another process has
    deleted the last queue of an exchange, a process that published there just before gets no error: such messages
    reach no queue. Needs nats-server 2.10.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import nats.errors as core
import nats.js.errors as js
from msgspec.structs import replace
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..errors import BrokerBusy, BrokerRefused, ConfigurationError, NoSuchQueue
from ..message import Message
from ..transport import Delivery, Features, Options, QueueStats
from .common.envelope import from_ascii, to_ascii
from .common.url import Key, check_options, check_same, existing, missing, parse

FORM = "nats://user:password@host:port"
URL_KEYS = {"token": Key(""), "lease": Key(30.0, 0.1), "sync": Key("", choices=("always",))}
NUMBERS = dict.fromkeys(("num_replicas", "max_age", "max_bytes", "max_msgs"), Key(1, 1))
OPTIONS = NUMBERS | {"compression": Key("none", choices=("none", "s2"))}
THEIRS = re.compile(r"([^\s./\\*>]+)/([^\s./\\*>]+)")  # a stream and a consumer
SAFE = {"deliver_subject": None, "ack_policy": "explicit", "max_deliver": -1}  # that an existing consumer must have
TEMPORARY_SECONDS = 60.0
ANSWER_SECONDS = 8.0  # less than the core waits: a server that starts or has no leader may never answer
RESERVED_BYTES = 128 * 1024  # at most so much of a message are headers: those of the core, of a dead letter
STATUS = re.compile(rb"NATS/1\.0 +(\d+) *([^\r\n]*)")
HEADER = re.compile(rb"^(?!Status:|Description:)([!-9;-~]+):([^\r\n]*)\r\n", re.MULTILINE)
NOTHING = ("404", "408", "409")  # no more messages; or no consumer, as the next answer says
NOT_SYNCED = "a power cut loses up to 2 minutes; set sync_interval: always in its settings, then sync=always in the URL"


class WatchedClient(Client):
    """nats-py's client, but no headers can break it, and it says why there is no answer.

    Two debts, since it uses private parts of nats-py 2.16; delete each method once nats-py passes its test without it.
    _process_headers: anyone can publish headers that end the reading with an IndexError (`X`, `NATS/1.0`), and
    JetStream redelivers them without end. The test: test_headers_that_no_client_writes_do_not_end_the_connection.
    closed: callers that wait for an answer or a message would wait on when the connection has ended. The test:
    test_who_publishes_or_receives_hears_at_once_that_the_server_has_gone.
    """

    async def _process_headers(self, headers: bytes | None) -> dict[str, str]:
        status = STATUS.match(headers or b"")
        found = [(b"Status", status[1]), (b"Description", status[2])] if status else []
        found += HEADER.findall(headers or b"")
        return {name.decode(): text.strip().decode(errors="replace") for name, text in found}

    async def complained(self, error: Exception) -> None:
        """Raise the error that prevents connecting: nats-py would try again and forget it."""
        if not (self.is_connected or self.is_closed):
            raise error

    async def closed(self) -> None:
        """Cancel all callers that wait for an answer."""
        for answer in list(self._resp_map.values()):
            answer.cancel()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        try:
            await super()._close(status, do_cbs)
        except OSError:  # from writing to a connection that is gone; no one else would catch it
            await self.closed()

    async def request(self, subject: str, *arguments: Any, **named: Any) -> Msg:
        """The answer. Raises BrokerRefused if there is none because the request is not permitted."""
        try:
            return await super().request(subject, *arguments, **named)
        except core.TimeoutError as error:
            raise self.why(subject) or error from None

    def why(self, subject: str) -> BrokerRefused | None:
        """The error if there is no answer because the request is not permitted."""
        refused = f'"{subject}"'.lower() in str(self.last_error).lower()
        return BrokerRefused(str(self.last_error)) if refused else None


class NATSTransport:
    """One connection to one NATS server."""

    features = Features(counts_returns=True, max_bytes=896 * 1024, max_delay=0, temporary=True, beside=True)
    errors = (
        (BrokerRefused, ("uthorization Violation", "uthentication", "err_code=10039", "err_code=10076")),
        (NoSuchQueue, (js.NotFoundError, js.NoStreamResponseError, core.NoRespondersError, "Error: code=None")),
        (BrokerBusy, (js.ServiceUnavailableError, js.ServerError, core.TimeoutError, ": code=429")),
        (BrokerRefused, (js.APIError,)),
    )
    warning = ""

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options."""
        self._address = address = parse(url, form=FORM, port=4222, keys=URL_KEYS, secure="natss")
        user, password, token = address.user, address.password, address.settings["token"]
        if address.path or bool(user) != bool(password) or (user and token):
            raise ConfigurationError(f"a nats URL has no path, and only one of user:password@ and ?token=...: {FORM}")
        secrets = {"user": user, "password": password} if user else {"token": token}
        self._secrets: dict[str, Any] = {name: partial(self._told, text) for name, text in secrets.items()}
        self._options = check_options(options, OPTIONS, "NATS", ["queue"])
        self._client = WatchedClient()
        self._batches: dict[str, asyncio.Queue[Msg]] = {}  # answers to published messages, by reply subject
        self._numbers = itertools.count()

    async def open(self) -> None:
        """Connect, without nats-py's own reconnecting, and check that the server has JetStream."""
        host, port = self._address.hosts[0]
        await self._client.connect(
            f"nats://{f'[{host}]' if ':' in host else host}:{port}",
            name="mqasync",
            tls=self._address.ssl_context(),
            allow_reconnect=False,
            error_cb=self._client.complained,
            closed_cb=self._client.closed,
            **self._secrets,
        )
        self._js, self._inbox = self._client.jetstream(timeout=ANSWER_SECONDS), self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._answered, pending_msgs_limit=0, pending_bytes_limit=0)
        try:
            await self.ping()
        except js.ServiceUnavailableError as error:
            raise error if error.err_code else BrokerRefused("it has no JetStream: nats-server -js") from None
        self.features = replace(self.features, max_bytes=self._client.max_payload - RESERVED_BYTES)
        self.warning = "" if self._address.settings["sync"] else NOT_SYNCED

    def _told(self, secret: str) -> str:
        """`secret`, which nats-py asks for just before it sends it: now the server is known, and can be refused.

        A debt: _server_info is private, and nats-py goes on without encryption if a server does not ask for TLS. The
        way back: leave TLS to nats-py once it refuses that. The test is that of a server without TLS.
        """
        server = self._client._server_info
        if self._address.encrypted and not server.get("tls_required"):
            raise BrokerRefused("the server at this port does not speak TLS: use nats://, or configure TLS there")
        if server.get("tls_verify") and "certfile" not in self._address.files:
            raise BrokerRefused("it requires a client certificate: set certfile= and keyfile= in the URL")
        if re.match(r"[01]\.|2\.\d\.", server["version"]):
            raise BrokerRefused(f"nats-server {server['version']} is too old: 2.10 or later is needed")
        return secret

    async def ping(self) -> None:
        """A JetStream request, not a PING: a late answer to a PING that was given up ends nats-py's reading."""
        await self._js.account_info()

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Create stream and consumer. Raises BrokerRefused for a stream with other settings.

        A full stream refuses new messages, and drops none (discard).
        """
        (stream, consumer), theirs = names(exchange, id), await self._theirs(exchange, id)
        wanted: dict[str, Any] = {"retention": "interest", **self._options.get(exchange, {})}
        wanted.pop("queues", None)
        try:
            found = await self._js.stream_info(stream)
        except js.NotFoundError:
            wanted |= {"subjects": [subject(exchange), subject(exchange, "*")], "storage": "file"}
            found = await self._js.add_stream(name=stream, discard="new", **wanted)
        check_same(f"the stream {stream}", vars(found.config), wanted)
        await self._js.add_consumer(
            stream,
            durable_name=consumer,
            deliver_policy="new",
            ack_wait=self._address.settings["lease"],
            max_ack_pending=-1,  # delayed messages count there
            filter_subjects=[subject(exchange, id), *([subject(exchange)] if bound and not theirs else [])],
            inactive_threshold=TEMPORARY_SECONDS if temporary else None,
        )

    async def _theirs(self, exchange: str, id: str) -> list[Any]:
        """What JetStream says of the existing consumer that config.yml names, if it does.

        Raises BrokerRefused if it does not exist or would lose messages.
        """
        if not (name := existing(self._options, exchange, id)):
            return []
        with suppress(js.NotFoundError):
            if named := THEIRS.fullmatch(name):
                found = await self._js.consumer_info(named[1], named[2])
                check_same(f"{name} would lose messages: it", vars(found.config), SAFE)
                return [found]
        raise missing(f"queue {name!r} of the form STREAM/CONSUMER")

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Publish to the subject of all bound queues."""
        await self._publish(subject(exchange), messages)

    async def bound(self, exchange: str) -> bool:
        """Whether any consumer has the subject: JetStream also confirms messages that no consumer gets."""
        consumers = await pages(self._js.consumers_info, names(exchange)[0])
        return any(subject(exchange) in (one.config.filter_subjects or ()) for one in consumers)

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Publish to the subject of that queue alone."""
        await self._publish(subject(exchange, id), messages)

    async def _publish(self, to: str, messages: Sequence[Message]) -> None:
        """Publish all of them, then wait for an answer to each.

        publish_async of nats-py does not report a full stream, and its publish makes four futures for each message.
        """
        requests = [to_ascii(message, 48 * 1024) for message in messages]  # JetStream accepts 64 KiB of headers
        largest = max(len(body) + len(str(headers)) for headers, body in requests)  # about that, on the wire
        if largest > (most := self._client.max_payload):  # the server would close the connection
            raise BrokerRefused(f"a message of {largest:,} bytes; max_payload of the NATS server is {most:,}")
        reply = f"{self._inbox}.{next(self._numbers)}"
        waiting: Any = self._client._resp_map  # for `closed`
        answers = self._batches[reply] = asyncio.Queue()
        waiting[reply] = asyncio.current_task()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for headers, body in requests:
                    await self._client.publish(to, body, reply, headers)
                for _ in requests:
                    answer = await answers.get()
                    if not answer.data:
                        raise core.NoRespondersError
                    if error := msgspec.json.decode(answer.data).get("error"):
                        js.APIError.from_error(error)
        except TimeoutError:
            raise self._client.why(to) or core.TimeoutError from None
        finally:
            del self._batches[reply], waiting[reply]

    async def _answered(self, answer: Msg) -> None:
        if (answers := self._batches.get(answer.subject)) is not None:
            answers.put_nowait(answer)

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> NATSSubscription:
        """Prepare to fetch."""
        infos = [await self._js.consumer_info(*names(exchange, id)), *await self._theirs(exchange, id)]
        brought, inbox = asyncio.Queue[Msg](), self._client.new_inbox()
        hearing = await self._client.subscribe(inbox, cb=brought.put, pending_bytes_limit=0)
        return NATSSubscription(exchange, self._client, infos, hearing, brought)

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count unsettled messages; a message that is requeued until it is due counts as in flight."""
        theirs = await self._theirs(exchange, id)
        found = [await self._js.consumer_info(*names(exchange, id)), *theirs]
        return QueueStats(sum(one.num_pending + one.num_ack_pending for one in found))

    async def queues(self) -> list[tuple[str, str]] | None:
        """Every consumer of each of our streams."""
        streams = [stream.config.name for stream in await pages(self._js.streams_info)]
        ours = [name for name in streams if name.startswith("mqasync-")]
        found = [(name, one.name) for name in ours for one in await pages(self._js.consumers_info, name)]
        return [(name[8:].replace("~", "."), consumer.replace("~", ".")) for name, consumer in found]

    async def delete(self, exchange: str, id: str) -> None:
        """Delete the consumer; JetStream then drops messages that are for no other."""
        await self._js.delete_consumer(*names(exchange, id))

    async def close(self) -> None:
        """Send what waits, and close: nats-py would wait for ever for the end of a TLS handshake that was refused."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if self._client.is_connected else 0.1):
                await self._client.close()


class NATSSubscription:
    """Fetches as many messages as the core asks for, of our consumer or else of an existing one; they are leased."""

    def __init__(self, exchange: str, client: Any, infos: Any, hearing: Any, brought: asyncio.Queue[Msg]) -> None:
        leases = (wait for info in infos for wait in (info.config.ack_wait, *(info.config.backoff or ())))
        self.lease: float | None = min(leases)
        self._exchange, self._client, self._hearing, self._brought = exchange, client, hearing, brought
        *self._first, self._last = [f"$JS.API.CONSUMER.MSG.NEXT.{info.stream_name}.{info.name}" for info in infos]

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Fetch the available messages; at the last of the consumers, wait for them."""
        for one in self._first:
            if found := await self._fetch(one, limit, 0.0):
                return found
        return await self._fetch(self._last, limit, max(timeout, 0.05))

    async def _fetch(self, consumer: str, limit: int, timeout: float) -> list[Delivery]:
        """Fetch without nats-py's own fetch, which makes three tasks for each message."""
        wanted = b'{"batch": %d, "no_wait": true, "expires": %d}' % (limit, timeout * 1e9)
        found: list[Msg] = []
        self._client._resp_map[self._hearing.subject] = asyncio.current_task()  # for `closed`
        await self._client.publish(consumer, wanted, self._hearing.subject)
        async with asyncio.timeout(timeout + ANSWER_SECONDS):
            while len(found) < limit and (one := await self._brought.get()).reply:
                found.append(one)
        if not one.reply and (one.headers or {}).get("Status") not in NOTHING:
            js.APIError.from_msg(one)
        return [self._delivery(one) for one in found]

    def _delivery(self, one: Msg) -> Delivery:
        stored, headers = one.metadata, one.headers or {}
        id = headers.get("Nats-Msg-Id") or f"{stored.stream}-{stored.sequence.stream}-{stored.timestamp}"
        message = from_ascii(self._exchange, headers, one.data, id, stored.timestamp.timestamp())
        return Delivery(message, tag=one, returned=stored.num_delivered - 1)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge, and wait for the last answer: otherwise a JetStream that syncs to the disk would fall behind."""
        for delivery in deliveries[:-1]:
            await delivery.tag.ack()
        with suppress(core.TimeoutError):  # an ack may get lost
            await deliveries[-1].tag.ack_sync(ANSWER_SECONDS)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Let JetStream redeliver them."""
        await self.postpone(deliveries, 0.0)

    async def postpone(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Let JetStream redeliver them later."""
        for delivery in deliveries:
            await delivery.tag.nak(delay)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Renew the leases."""
        for delivery in deliveries:
            await delivery.tag.in_progress()

    async def close(self) -> None:
        """Stop fetching."""
        self._client._resp_map.pop(self._hearing.subject, None)
        await self._hearing.unsubscribe()


def names(exchange: str, id: str = "") -> tuple[str, str]:
    """Stream and consumer of a queue; their names have no dots."""
    return f"mqasync-{exchange}".replace(".", "~"), id.replace(".", "~")


def subject(*words: str) -> str:
    """The subject of all bound queues of an exchange, or with an id that of one queue."""
    return ".".join(["mqasync", *(word.replace(".", "~") for word in words)])


async def pages(ask: Callable[..., Awaitable[list[Any]]], *arguments: str) -> list[Any]:
    """The whole of a list that JetStream returns in portions."""
    found: list[Any] = []
    while page := await ask(*arguments, offset=len(found)):
        found += page
    return found
