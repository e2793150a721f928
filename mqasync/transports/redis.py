"""Redis Streams through redis-py, and the ids that dedup remembers there; nothing is retried or handled here.

URL: redis://user:password@host:port/database, or rediss:// for TLS, always verified. With Sentinels, which are asked
    for the master at each connect: redis+sentinel://user:password@one,two:26379/master/database, or
    rediss+sentinel:// for TLS with the Sentinels and with the master, whose certificate must name the address
    that the Sentinels report. After "?": lease (seconds until an unacknowledged message is redelivered, default 30;
    the same in every process), cafile, certfile, keyfile.
Options: none; `queue` of a consumer names an existing stream, see docs/existing.md.
Delivery: a stream for each exchange and id; a publish is one script, which adds a message to all
    streams of the exchange or to none. A delivery is leased: if a process does not extend the lease in time,
    another one gets the message as well. Messages in flight in a killed process are redelivered one lease later,
    and counted. Entries from other programs are messages too: the field `body` is the body, the other fields are
    headers; without that field all fields are the body, as a JSON object of text, in which \\x and two digits stand
    for a byte that is not text.
Order: first in, first out with one consumer and no retries; requeued messages come before new ones.
Delay: by the clock of Redis, up to a second late.
Dead letters: a queue like any other, "id.dead".
What it cannot do: use a Redis Cluster, keep more than fits into memory, use Redis before 7.0, report
    how many consumers a queue has.
    A Redis that accepts no writes, such as a replica, counts as not connected. A replica that becomes
    the master lacks messages that were not replicated yet, confirmed or not.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import Any

from redis.asyncio import ConnectionPool, Redis, SSLConnection
from redis.exceptions import ResponseError

from ..errors import BrokerBusy, BrokerLost, BrokerRefused, ConfigurationError, NoSuchQueue, Unroutable
from ..message import Message, new_id
from ..transport import Delivery, Errors, Features, Options, QueueStats
from .common.envelope import from_headers, pack, to_time, unpack
from .common.url import Address, Key, check_options, existing, missing, parse, value

FORM = "redis://user:password@host:port/database"
KEYS = {"lease": Key(30.0, least=0.1)}
REPLY_SECONDS = 60.0  # that large messages may take on a slow line; meanwhile the core pings
MOST_COUNTED = 1_000  # entries of an existing stream that Redis itself cannot count
SEEN_SECONDS = 2.0  # a Redis that does not answer must not stall a queue for the sake of dedup
MAX_CONNECTIONS = 10_000  # redis-py lends one to each command; its own limit of 100 would count as an outage
WE = "mqasync"  # the group of each of our streams, and its only consumer: it does not matter which process has what

ONE_SERVER = "mqasync needs one Redis server, 7.0 or newer, not a Cluster; with Sentinels use redis+sentinel://"
SENTINEL = "+sentinel"  # the end of a scheme
SENTINEL_FORM = f"redis{SENTINEL}://user:password@host:port/master/database"
SENTINEL_SECONDS = 2.0  # for an answer

# What Redis says of itself, bad values (or none, if we may not ask), and how it can lose messages with them
RISKS = (
    ("maxmemory_policy", "(allkeys.*)?", "it evicts messages when it is full: set maxmemory-policy to noeviction"),
    ("aof_enabled", "0?", "it keeps messages in memory only, and loses them when it stops: set appendonly to yes"),
    ("appendfsync", "everysec|no", "a power cut loses what is not on disk yet: set appendfsync to always"),
)

WRITABLE = "#!lua flags=allow-oom\nreturn 1"  # a Redis that accepts no writes refuses even this,
ROOM = "#!lua\nreturn 1"  # and one that has no memory for messages refuses this

# KEYS: the ids that are bound to an exchange. ARGV: messages
PUBLISH = """#!lua
local ids = redis.call('SMEMBERS', KEYS[1])
for _, id in ipairs(ids) do
    for _, message in ipairs(ARGV) do
        redis.call('XADD', KEYS[1] .. id, '*', 'mqasync', message)
    end
end
return #ids
"""

# KEYS: stream, delayed. ARGV: seconds, messages; delayed ones are made unique by 36 characters before them.
# Also when the memory is full: a message that was retried or dead-lettered makes room.
SEND = """#!lua flags=allow-oom
local time = redis.call('TIME')
for n = 2, #ARGV do
    if ARGV[1] == '0' then
        redis.call('XADD', KEYS[1], '*', 'mqasync', ARGV[n])
    else
        redis.call('ZADD', KEYS[2], time[1] + time[2] / 1000000 + ARGV[1], ARGV[n])
    end
end
"""

# KEYS: stream, delayed, an existing stream if there is one. ARGV: group, lease in milliseconds, limit. Delayed
# messages that are due can be received from now on; messages whose lease has ended are taken. Returns these, and in
# how many milliseconds to look again.
LOOK = """#!lua flags=allow-oom
local time, taken = redis.call('TIME'), {}
local now = time[1] + time[2] / 1000000
for _, unique in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, 256)) do
    redis.call('XADD', KEYS[1], '*', 'mqasync', string.sub(unique, 37))
    redis.call('ZREM', KEYS[2], unique)
end
for _, stream in ipairs({KEYS[1], KEYS[3]}) do
    for _, held in ipairs(redis.call('XPENDING', stream, ARGV[1], 'IDLE', ARGV[2], '-', '+', ARGV[3])) do
        local entry = redis.call('XCLAIM', stream, ARGV[1], 'mqasync', ARGV[2], held[1])[1]
        taken[#taken + 1] = entry and {stream, entry[1], entry[2], held[4]}
    end
end
local due = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2] or now + 1
return {taken, #taken == 0 and math.ceil(math.min(due - now, 1) * 1000) or 0}
"""


class VerifiedConnection(SSLConnection):
    """TLS with our own context: redis-py's would trust public authorities in addition to the cafile."""

    def __init__(self, context: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.ssl_context.context = context


def address_of(url: str) -> Address:
    """The address of a Redis. Raises ConfigurationError."""
    address = parse(url, form=FORM, port=6379, keys=KEYS, secure="rediss")
    value("the database", address.path or "0", Key(0, least=0))
    return address


def client(address: Address, patience: float) -> Redis:
    """A client that connects when first used, and waits `patience` seconds for an answer."""
    (host, port), context = address.hosts[0], address.ssl_context()
    settings: dict[str, Any] = {"host": host, "port": port, "db": int(address.path or 0), "protocol": 2}
    settings |= {"username": address.user or None, "password": address.password or None}
    settings |= {"socket_timeout": patience, "socket_connect_timeout": patience}
    settings |= {"connection_class": VerifiedConnection, "context": context} if context else {}
    return Redis.from_pool(ConnectionPool(max_connections=MAX_CONNECTIONS, **settings))


def keys(exchange: str, id: str = "") -> list[str]:
    """The stream of a queue, and the sorted set of its delayed messages; without an id, first the set of bound ids.

    The braces keep all keys of an exchange on one server behind a proxy that distributes keys.
    """
    stream = f"mqasync:{{{exchange}}}:{id}"
    return [stream, f"{stream}:delayed"]


def packed(messages: Sequence[Message]) -> list[bytes]:
    """The one field of an entry: envelope, which has no line feed, and body."""
    return [pack(message) + b"\n" + message.body for message in messages]


class RedisTransport:
    """One Redis; redis-py has a connection for each command under way."""

    features = Features(counts_returns=True, max_bytes=128 * 1024 * 1024, beside=True)
    errors: Errors = (
        (NoSuchQueue, ("NOGROUP", "no longer exists")),
        (BrokerLost, ("ReadOnlyError", "MasterDownError", "UNBLOCKED")),  # another server has become the master
        (BrokerBusy, ("OutOfMemoryError", "MISCONF", "NOREPLICAS", "BUSY Redis")),
        (BrokerRefused, ("ClusterDown", "cluster mode", "unknown command", "unexpected symbol"), ONE_SERVER),
        (BrokerRefused, ("AuthenticationError", "AuthorizationError", ResponseError)),
    )

    def __init__(self, url: str, options: Options) -> None:
        """Check URL and options."""
        if url.partition(":")[0].endswith(SENTINEL):
            self._address = parse(url, form=SENTINEL_FORM, port=26379, keys=KEYS, secure=f"rediss{SENTINEL}")
            self._master, _, database = self._address.path.partition("/")
            if not self._master:
                raise ConfigurationError(f"a redis+sentinel URL must name a master: {SENTINEL_FORM}")
            self._address = self._address._replace(path=database)
        else:
            self._address, self._master = address_of(url), ""
        self._options = check_options(options, {}, "Redis", ["queue"])

    async def open(self) -> None:
        """Connect, and check that it is a single server that accepts writes."""
        address = self._address
        if self._master:
            async with client(address._replace(user="", password="", path=""), SENTINEL_SECONDS) as sentinel:
                found: Any = await sentinel.sentinel_get_master_addr_by_name(self._master)
            if not found:
                raise BrokerLost(f"the Sentinel does not know a master {self._master!r}")
            address = address._replace(hosts=[found])
        self.redis = client(address, REPLY_SECONDS)
        self._publish, self._send, self.look = map(self.redis.register_script, (PUBLISH, SEND, LOOK))
        del self.redis.response_callbacks["XREADGROUP"]  # entries as they are in LOOK
        await self.redis.eval(WRITABLE, 0)
        about: dict[Any, Any] = {}
        with suppress(ResponseError):  # asking may need a permission
            about |= await self.redis.info()
            about |= await self.redis.config_get("appendfsync")
        if about.get("redis_mode") == "cluster":
            raise BrokerRefused(ONE_SERVER)
        risks = (text for name, bad, text in RISKS if re.fullmatch(bad, str(about.get(name, ""))))
        self.warning = ("" if about else "its settings cannot be read; perhaps ") + "; ".join(risks)

    async def ping(self) -> None:
        """Ask whether a message would be accepted."""
        await self.redis.eval(ROOM, 0)

    async def declare(self, exchange: str, id: str, bound: bool = True, temporary: bool = False) -> None:
        """Create the stream and its group, which gets all entries in it; then let publish find it.

        Of an existing stream the group gets what is added from now on, and publish does not reach the queue.
        """
        group, theirs = await self._theirs(exchange, id)
        for stream, start in [(keys(exchange, id)[0], "0"), *((stream, "$") for stream in theirs)]:
            try:
                await self.redis.xgroup_create(stream, group, start, mkstream=stream not in theirs)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):  # the group exists already
                    raise
        if bound and not theirs:
            await self.redis.sadd(keys(exchange)[0], id)

    async def _theirs(self, exchange: str, id: str) -> tuple[str, list[str]]:
        """The group of the queue, and the existing stream that config.yml names, if it does."""
        theirs = existing(self._options, exchange, id)
        if theirs and await self.redis.type(theirs) != b"stream":
            raise missing(f"stream {theirs!r}")
        return (f"{exchange}.{id}", [theirs]) if theirs else (WE, [])

    async def publish(self, exchange: str, messages: Sequence[Message]) -> None:
        """Add them to all streams of the exchange, in one step."""
        if not await self._publish(keys(exchange)[:1], packed(messages)):
            raise Unroutable(f"no queue is bound to exchange {exchange!r}")

    async def bound(self, exchange: str) -> bool:
        """True: publish itself raises Unroutable."""
        return True

    async def send(self, exchange: str, id: str, messages: Sequence[Message], delay: float = 0.0) -> None:
        """Add them to that stream or to the delayed messages; the stream is created if it has just been deleted."""
        unique = [new_id().encode() + message for message in packed(messages)] if delay else packed(messages)
        await self._send(keys(exchange, id), [delay or 0, *unique])

    async def subscribe(self, exchange: str, id: str, prefetch: int) -> RedisSubscription:
        """Nothing to do at the server."""
        group, theirs = await self._theirs(exchange, id)
        return RedisSubscription(self, exchange, [*keys(exchange, id), *theirs], group, self._address.settings["lease"])

    async def stats(self, exchange: str, id: str) -> QueueStats | None:
        """Count unsettled messages; delayed ones that are due count as delayed until a consumer looks for them."""
        stream, delayed = keys(exchange, id)
        (group, theirs), waiting = await self._theirs(exchange, id), await self.redis.xlen(stream)
        for one in theirs:
            told = {told["name"].decode(): told for told in await self.redis.xinfo_groups(one)}.get(group)
            if told is None:
                return None
            if (lag := told["lag"]) is None:  # Redis has lost count, since some were deleted
                unread = await self.redis.xrange(one, b"(" + told["last-delivered-id"], count=MOST_COUNTED)
                lag = len(unread or ())
            waiting += told["pending"] + lag
        found = QueueStats(waiting, await self.redis.zcard(delayed))
        return found if await self.redis.exists(stream) else None

    async def queues(self) -> list[tuple[str, str]] | None:
        """Look through all keys for streams of ours."""
        found = {key.decode() async for key in self.redis.scan_iter(keys("*", "*")[0], 1000, "stream")}
        return [(exchange, id) for _, exchange, id in (re.split("[{}]:?", key) for key in found)]

    async def delete(self, exchange: str, id: str) -> None:
        """Unbind the queue, and drop its messages."""
        await self.redis.srem(keys(exchange)[0], id)
        await self.redis.delete(*keys(exchange, id))

    async def close(self) -> None:
        """Close all connections; unsettled messages are redelivered when their lease ends."""
        await self.redis.aclose()


class RedisSubscription:
    """One consumer of one queue. `keys`: its stream, its delayed messages, and an existing stream if there is one."""

    def __init__(self, transport: RedisTransport, exchange: str, keys: list[str], group: str, lease: float) -> None:
        self.lease: float | None = lease
        self._redis, self._look, self._exchange = transport.redis, transport.look, exchange
        self._keys, self._group, self._milliseconds = keys, group, round(lease * 1000)
        self._look_at = 0.0  # on the monotonic clock

    async def receive(self, limit: int, timeout: float) -> list[Delivery]:
        """Take messages whose lease has ended, if it is time to look for them; else wait for new ones."""
        if time.monotonic() >= self._look_at:
            taken, pause = await self._look(self._keys, [self._group, self._milliseconds, limit])
            self._look_at = time.monotonic() + pause / 1000
            if taken:
                return [self._delivery(*entry) for entry in taken]
        block = max(1, round(1000 * min(timeout, self._look_at - time.monotonic())))  # 0 would be for ever
        streams: Any = dict.fromkeys([self._keys[0], *self._keys[2:]], ">")
        new: Any = await self._redis.xreadgroup(self._group, WE, streams, limit, block)
        return [self._delivery(stream, *entry) for stream, entries in new or () for entry in entries]

    def _delivery(self, stream: bytes, entry: bytes, fields: list[bytes], returned: int = 0) -> Delivery:
        if fields[0] == b"mqasync":
            envelope, _, body = fields[1].partition(b"\n")
            message, problem = unpack(self._exchange, envelope, body, entry.decode())
        else:
            message, problem = strangers(self._exchange, entry, fields), ""
        return Delivery(message, tag=(stream, entry), returned=returned, unreadable=problem)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Delete entries of our stream, then acknowledge them: in this order nothing is left behind."""
        pipeline: Any = self._redis.pipeline(transaction=False)  # when its memory is full, Redis refuses transactions
        for stream, ids in entries(deliveries):
            if stream == self._keys[0].encode():
                pipeline.xdel(stream, *ids)
            pipeline.xack(stream, self._group, *ids)
        await pipeline.execute()

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Mark them as if their lease had ended, for the next consumer that looks."""
        for one in deliveries:
            how: Any = {"idle": self._milliseconds, "retrycount": one.returned, "justid": True}
            await self._redis.xclaim(one.tag[0], self._group, WE, 0, [one.tag[1]], **how)
        self._look_at = 0.0

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Mark them as if they had just been delivered."""
        for stream, ids in entries(deliveries):
            await self._redis.xclaim(stream, self._group, WE, 0, ids, justid=True)

    async def close(self) -> None:
        """Nothing to close."""


def entries(deliveries: Sequence[Delivery]) -> list[tuple[bytes, list[Any]]]:
    """The ids of their entries, by stream."""
    tags = [delivery.tag for delivery in deliveries]
    return [(stream, [id for _, id in some]) for stream, some in groupby(tags, itemgetter(0))]


def strangers(exchange: str, entry: bytes, fields: list[bytes]) -> Message:
    """The message in an entry that another program has added."""
    both = [field.decode(errors="backslashreplace") for field in fields]
    headers, names = dict(zip(both[::2], both[1::2], strict=True)), fields[::2]
    if headers.pop("body", None) is not None:
        body = fields[2 * names.index(b"body") + 1]
    else:
        body, headers = json.dumps(headers).encode(), {}
    added = to_time(str(int(entry.partition(b"-")[0]) / 1000))
    return from_headers(exchange, body, headers, entry.decode(), added)


class SeenInRedis:
    """One key for each id, which Redis drops after `ttl` seconds; for the contract see Seen in transport.py."""

    def __init__(self, url: str, exchange: str, id: str, ttl: float) -> None:
        self._redis = client(address_of(url), SEEN_SECONDS)
        self._prefix = f"mqasync:seen:{exchange}/{id}:"
        self._milliseconds = max(1, round(ttl * 1000))

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Ask for all of them in one command."""
        values = await self._redis.mget([self._prefix + id for id in ids])
        return {id for id, value in zip(ids, values, strict=True) if value}

    async def add(self, ids: Sequence[str]) -> None:
        """Set all of them in one pipeline."""
        pipeline = self._redis.pipeline(transaction=False)
        for id in ids:
            pipeline.set(self._prefix + id, 1, px=self._milliseconds)
        await pipeline.execute()

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
