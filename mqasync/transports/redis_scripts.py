"""The keys of transports/redis.py, and the Lua that declares and fills queues; what is in hand is in redis_leases.py.

Redis runs a script as one step: nobody sees half of it.

An exchange is the hash KEYS[1] = mqasync:{exchange}: its ids, each "bound" or "unbound". Its queues are
    mqasync:{exchange}:id           a stream with one consumer group: what can be received, and what somebody holds
    mqasync:{exchange}:id:delayed   a stream: what is not due yet
    mqasync:{exchange}:id:due       a sorted set: the entries of that stream by when they are due, in milliseconds
The braces keep all keys of an exchange on one server. An entry has the fields envelope (the message but its
body, as JSON), body and, if it came back unsettled, returned (how often).
"""

from __future__ import annotations

from hashlib import sha1
from typing import Any

from .redis_connection import Connection

GROUP = "mqasync"


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
"""

# KEYS: exchange, stream. ARGV: id, bound or unbound
DECLARE = Script(
    """
redis.call(ARGV[2] == 'bound' and 'HSET' or 'HSETNX', KEYS[1], ARGV[1], ARGV[2])
local made = redis.pcall('XGROUP', 'CREATE', KEYS[2], GROUP, '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then
    return made
end
""",
    needs_memory=True,
)

# KEYS: exchange. ARGV: envelope and body of each message. Returns how many queues are bound.
PUBLISH = Script(
    """
local ids, bound = redis.call('HGETALL', KEYS[1]), 0
for n = 1, #ids, 2 do
    if ids[n + 1] == 'bound' then
        bound = bound + 1
        for i = 1, #ARGV, 2 do
            redis.call('XADD', KEYS[1] .. ':' .. ids[n], '*', 'envelope', ARGV[i], 'body', ARGV[i + 1])
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
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
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

# KEYS: exchange, stream, delayed. ARGV: id. Returns -1 if there is no such queue.
DEPTH = Script(
    """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return -1
end
return redis.call('XLEN', KEYS[2]) + redis.call('XLEN', KEYS[3])
"""
)

# KEYS: stream. ARGV: milliseconds. Forgets consumers whose processes have died; returns 0 if there is no such queue.
TIDY = Script(
    """
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], GROUP)
if consumers.err then
    return 0
end
for _, consumer in ipairs(consumers) do  -- 'name', name, 'pending', pending, 'idle', idle
    if consumer[4] == 0 and consumer[6] > tonumber(ARGV[1]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, consumer[2])
    end
end
return 1
"""
)

ALL = (DECLARE, PUBLISH, SEND, DEPTH, TIDY)
