"""The keys of transports/redis.py, and the Lua that declares and fills queues; what is in hand is in redis_leases.py.

Redis runs a script as one step: nobody sees half of it.

An exchange is the hash KEYS[1] = mqasync:{exchange}: its ids, each "bound" or "unbound", and for a queue that
expires in how many milliseconds: "bound 2000". Its queues are
    mqasync:{exchange}:id           a stream with one consumer group: what can be received, and what somebody holds
    mqasync:{exchange}:id:delayed   a stream: what is not due yet
    mqasync:{exchange}:id:due       a sorted set: the entries of that stream by when they are due, in milliseconds
The braces keep all keys of an exchange on one server. An entry has the fields envelope (the message but its
body, as JSON), body and, if it came back unsettled, returned (how often).

The stream of a queue that expires has a time to live, which its consumers renew. Once Redis has dropped the stream,
whoever meets the queue's id in the hash forgets it, and what was delayed.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Any, NamedTuple

from .redis_connection import Connection

GROUP = "mqasync"
PREFIX = "mqasync:{"


class Keys(NamedTuple):
    """Where a queue is."""

    exchange: str
    stream: str
    delayed: str
    due: str


def exchange_key(exchange: str) -> str:
    """Where its ids are."""
    return f"{PREFIX}{exchange}}}"


def keys_of(exchange: str, id: str) -> Keys:
    """Those of the queue (exchange, id)."""
    stream = f"{exchange_key(exchange)}:{id}"
    return Keys(exchange_key(exchange), stream, f"{stream}:delayed", f"{stream}:due")


class Script:
    """One script; what gives memory back runs also when Redis is out of memory."""

    def __init__(self, source: str, needs_memory: bool = False) -> None:
        flags = "" if needs_memory else " flags=allow-oom"
        self.source = f"#!lua{flags}\n{SHARED}\n{source}"
        self._sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def load(self, connection: Connection) -> None:
        """Make Redis know it."""
        await connection.call("SCRIPT", "LOAD", self.source)

    async def run(self, connection: Connection, keys: tuple[str, ...], *arguments: str | bytes | int) -> Any:
        """Run it. Raises what Connection.call raises."""
        return await connection.call("EVALSHA", self._sha, len(keys), *keys, *arguments)


SHARED = f"""
local GROUP = '{GROUP}'

local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function forget(exchange, id)
    local stream = exchange .. ':' .. id
    redis.call('HDEL', exchange, id)
    redis.call('DEL', stream, stream .. ':delayed', stream .. ':due')
end

-- "bound" or "unbound", and in how many milliseconds without consumers it expires (0: never); nil if it is not there
local function what_is(exchange, id, value)
    local state, expires = string.match(value or '', '^(%a+) ?(%d*)$')
    expires = tonumber(expires) or 0
    if expires > 0 and redis.call('EXISTS', exchange .. ':' .. id) == 0 then
        forget(exchange, id)
        return nil
    end
    return state, expires
end
"""

# KEYS: exchange, stream, delayed, due. ARGV: id, bound or unbound, in how many milliseconds it expires (0: never)
DECLARE = Script(
    """
local values, was = redis.call('HGETALL', KEYS[1]), nil
for n = 1, #values, 2 do
    local state = what_is(KEYS[1], values[n], values[n + 1])
    was = values[n] == ARGV[1] and state or was
end
local expires = tonumber(ARGV[3])
local state = was == 'bound' and was or ARGV[2]
redis.call('HSET', KEYS[1], ARGV[1], expires > 0 and state .. ' ' .. expires or state)
local made = redis.pcall('XGROUP', 'CREATE', KEYS[2], GROUP, '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then
    return made
end
for n = 2, #KEYS do
    if expires > 0 then
        redis.call('PEXPIRE', KEYS[n], expires)
    else
        redis.call('PERSIST', KEYS[n])
    end
end
""",
    needs_memory=True,
)

# KEYS: exchange. ARGV: envelope and body of each message. Returns how many queues are bound.
PUBLISH = Script(
    """
local values, bound = redis.call('HGETALL', KEYS[1]), 0
for n = 1, #values, 2 do
    if what_is(KEYS[1], values[n], values[n + 1]) == 'bound' then
        bound = bound + 1
        for i = 1, #ARGV, 2 do
            redis.call('XADD', KEYS[1] .. ':' .. values[n], '*', 'envelope', ARGV[i], 'body', ARGV[i + 1])
        end
    end
end
return bound
""",
    needs_memory=True,
)

# KEYS: exchange, stream, delayed, due. ARGV: id, milliseconds, envelope and body of each message.
# Returns 0 if there is no such queue.
SEND = Script(
    """
if not what_is(KEYS[1], ARGV[1], redis.call('HGET', KEYS[1], ARGV[1])) then
    return 0
end
local delay = tonumber(ARGV[2])
for i = 3, #ARGV, 2 do
    local stream = delay > 0 and KEYS[3] or KEYS[2]
    local entry = redis.call('XADD', stream, '*', 'envelope', ARGV[i], 'body', ARGV[i + 1])
    if delay > 0 then
        redis.call('ZADD', KEYS[4], now() + delay, entry)
    end
end
return 1
""",
    needs_memory=True,
)

# KEYS: exchange, stream, delayed, due. ARGV: id, milliseconds. Returns how many messages wait, how many are delayed
# and how many consumers have asked for something within that time, where Redis tells: before 7.2 it does not count
# asking in vain. Returns nothing if there is no such queue.
STATS = Script(
    """
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[2], GROUP)
if consumers.err or not what_is(KEYS[1], ARGV[1], redis.call('HGET', KEYS[1], ARGV[1])) then
    return false
end
local alive = redis.REDIS_VERSION_NUM >= 0x070200 and 0 or nil
for _, consumer in ipairs(consumers) do  -- 'name', name, 'pending', pending, 'idle', idle
    alive = alive and alive + (consumer[6] < tonumber(ARGV[2]) and 1 or 0)
end
local delayed = redis.call('ZCOUNT', KEYS[4], '(' .. now(), '+inf')
return {redis.call('XLEN', KEYS[2]) + redis.call('XLEN', KEYS[3]) - delayed, delayed, alive}
"""
)

# KEYS: exchange. ARGV: id.
DELETE = Script("forget(KEYS[1], ARGV[1])")

# KEYS: exchange, stream, delayed, due. ARGV: milliseconds. Somebody consumes: the queue lives for that much longer.
KEEP = Script(
    """
for n = 2, #KEYS do
    redis.call('PEXPIRE', KEYS[n], ARGV[1])
end
"""
)

# KEYS: exchange, stream. ARGV: id, milliseconds. Forgets consumers whose processes have died. Returns in how many
# milliseconds the queue expires (0: never), -1 if there is no such queue.
TIDY = Script(
    """
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[2], GROUP)
local state, expires = what_is(KEYS[1], ARGV[1], redis.call('HGET', KEYS[1], ARGV[1]))
if consumers.err or not state then
    return -1
end
for _, consumer in ipairs(consumers) do
    if consumer[4] == 0 and consumer[6] > tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[2], GROUP, consumer[2])
    end
end
return expires
"""
)

ALL = (DECLARE, PUBLISH, SEND, STATS, DELETE, KEEP, TIDY)
