"""The Lua that Redis runs for transports/redis.py, each script as one step that nothing interrupts; no connection here.

An exchange is the hash KEYS[1] = mqasync:{exchange}: its ids, each "bound" or "unbound". Its queues are
    mqasync:{exchange}:id           a stream with one consumer group: what can be received, and what somebody holds
    mqasync:{exchange}:id:delayed   a stream: what is not due yet
    mqasync:{exchange}:id:due       a sorted set: the entries of that stream by when they are due, in milliseconds
The braces keep all keys of an exchange on one server. An entry has the fields envelope (the message but its
body, as JSON), body and, if it came back unsettled, returned (how often).

Redis counts how often an entry was delivered. Who settles it says who they are and that count: if somebody
else has it by now, or the same consumer once more, nothing happens.
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

local function set(fields, name, value)
    for i = 1, #fields, 2 do
        if fields[i] == name then
            fields[i + 1] = value
            return
        end
    end
    fields[#fields + 1] = name
    fields[#fields + 1] = value
end

local function is_held(stream, consumer, entry, count)
    local pending = redis.call('XPENDING', stream, GROUP, entry, entry, 1, consumer)[1]
    return pending and pending[4] == tonumber(count)
end

local function remove(stream, entries)
    for first = 1, #entries, 1000 do
        local last = math.min(first + 999, #entries)
        redis.call('XACK', stream, GROUP, unpack(entries, first, last))
        redis.call('XDEL', stream, unpack(entries, first, last))
    end
end

-- the fields of an entry that is held, to be added again; nil if a stranger deleted it
local function fields_of(stream, entry, count)
    local found = redis.call('XRANGE', stream, entry, entry)[1]
    local fields = found and found[2]
    if not fields then
        return nil
    end
    local returned = count - 1
    for i = 1, #fields, 2 do
        if fields[i] == 'returned' then
            returned = returned + (tonumber(fields[i + 1]) or 0)
        end
    end
    if returned > 0 then
        set(fields, 'returned', returned)
    end
    return fields
end

local function release(stream, entry, count)
    local fields = fields_of(stream, entry, count)
    if fields then
        redis.call('XADD', stream, '*', unpack(fields))
    end
    remove(stream, {{entry}})
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

# KEYS: stream, delayed, due. ARGV: consumer, limit, lease in milliseconds, how much the consumer holds. What is due
# can be received from now on; what somebody else held for longer than the lease is taken. Returns that, as
# {count, {entry, fields}}, and in how many milliseconds something becomes due (-1: nothing will).
LOOK = Script(
    """
local moment = now()
for _, entry in ipairs(redis.call('ZRANGE', KEYS[3], '-inf', moment, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
    local found = redis.call('XRANGE', KEYS[2], entry, entry)[1]
    if found then
        redis.call('XADD', KEYS[1], '*', unpack(found[2]))
        redis.call('XDEL', KEYS[2], entry)
    end
    redis.call('ZREM', KEYS[3], entry)
end
local taken, limit = {}, tonumber(ARGV[2])
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], GROUP, 'IDLE', ARGV[3], '-', '+', limit + ARGV[4])) do
    if pending[2] ~= ARGV[1] and #taken < limit then
        local entry = redis.call('XCLAIM', KEYS[1], GROUP, ARGV[1], 0, pending[1])[1]
        if entry then
            taken[#taken + 1] = {pending[4] + 1, entry}
        end
    end
end
local nearest = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
return {taken, nearest and math.max(0, math.ceil(nearest - moment)) or -1}
"""
)

# KEYS: stream. ARGV: consumer, entry and count of each delivery
ACK = Script(
    """
local held = {}
for i = 2, #ARGV, 2 do
    if is_held(KEYS[1], ARGV[1], ARGV[i], ARGV[i + 1]) then
        held[#held + 1] = ARGV[i]
    end
end
remove(KEYS[1], held)
"""
)
EXTEND = Script(
    """
for i = 2, #ARGV, 2 do
    if is_held(KEYS[1], ARGV[1], ARGV[i], ARGV[i + 1]) then
        redis.call('XCLAIM', KEYS[1], GROUP, ARGV[1], 0, ARGV[i], 'JUSTID')
    end
end
"""
)
RELEASE = Script(
    """
for i = 2, #ARGV, 2 do
    if is_held(KEYS[1], ARGV[1], ARGV[i], ARGV[i + 1]) then
        release(KEYS[1], ARGV[i], ARGV[i + 1])
    end
end
"""
)

# KEYS: stream, delayed, due. ARGV: consumer, entry, count, milliseconds, envelope
RETRY = Script(
    """
if is_held(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then
    local fields = fields_of(KEYS[1], ARGV[2], ARGV[3])
    if fields then
        set(fields, 'envelope', ARGV[5])
        redis.call('ZADD', KEYS[3], now() + ARGV[4], redis.call('XADD', KEYS[2], '*', unpack(fields)))
    end
    remove(KEYS[1], {ARGV[2]})
end
"""
)

# KEYS: stream. ARGV: consumer. Releases all it holds, then forgets it.
LEAVE = Script(
    """
local held
repeat
    held = redis.call('XPENDING', KEYS[1], GROUP, '-', '+', 1000, ARGV[1])
    for _, pending in ipairs(held) do
        release(KEYS[1], pending[1], pending[4])
    end
until #held == 0
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, ARGV[1])
"""
)

ALL = (DECLARE, PUBLISH, SEND, DEPTH, TIDY, LOOK, ACK, EXTEND, RELEASE, RETRY, LEAVE)
