"""The Lua by which consumers take, settle and lose deliveries of transports/redis.py; keys are in redis_scripts.py.

KEYS are the same for every script: exchange, stream, delayed, due.

Redis counts how often an entry was delivered. Who settles it says who they are and that count: if somebody
else has it by now, or the same consumer once more, nothing happens.
"""

from __future__ import annotations

from .redis_scripts import Script

HELPERS = """
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
    remove(stream, {entry})
end
"""

# ARGV: consumer, limit, lease in milliseconds, how much the consumer holds. What is due can be received from now on;
# what somebody else held for longer than the lease is taken, up to the limit. Returns that, as
# {count, {entry, fields}}, and in how many milliseconds something becomes due (-1: nothing will).
LOOK = Script(
    """
local moment = now()
for _, entry in ipairs(redis.call('ZRANGE', KEYS[4], '-inf', moment, 'BYSCORE', 'LIMIT', 0, 1000)) do
    local found = redis.call('XRANGE', KEYS[3], entry, entry)[1]
    if found then
        redis.call('XADD', KEYS[2], '*', unpack(found[2]))
        redis.call('XDEL', KEYS[3], entry)
    end
    redis.call('ZREM', KEYS[4], entry)
end
local taken, limit = {}, tonumber(ARGV[2])
for _, pending in ipairs(redis.call('XPENDING', KEYS[2], GROUP, 'IDLE', ARGV[3], '-', '+', limit + ARGV[4])) do
    if pending[2] ~= ARGV[1] and #taken < limit then
        local entry = redis.call('XCLAIM', KEYS[2], GROUP, ARGV[1], 0, pending[1])[1]
        if entry then
            taken[#taken + 1] = {pending[4] + 1, entry}
        end
    end
end
local nearest = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2]
return {taken, nearest and math.max(0, math.ceil(nearest - moment)) or -1}
"""
)

# ARGV: consumer, entry and count of each delivery as JSON, which is one argument to pack and not hundreds
ACK = Script(
    HELPERS
    + """
local held = {}
for _, tag in ipairs(cjson.decode(ARGV[2])) do
    if is_held(KEYS[2], ARGV[1], tag[1], tag[2]) then
        held[#held + 1] = tag[1]
    end
end
remove(KEYS[2], held)
"""
)
EXTEND = Script(
    HELPERS
    + """
for _, tag in ipairs(cjson.decode(ARGV[2])) do
    if is_held(KEYS[2], ARGV[1], tag[1], tag[2]) then
        redis.call('XCLAIM', KEYS[2], GROUP, ARGV[1], 0, tag[1], 'JUSTID')
    end
end
"""
)
RELEASE = Script(
    HELPERS
    + """
for _, tag in ipairs(cjson.decode(ARGV[2])) do
    if is_held(KEYS[2], ARGV[1], tag[1], tag[2]) then
        release(KEYS[2], tag[1], tag[2])
    end
end
"""
)

# ARGV: consumer, one delivery as above, milliseconds, envelope
RETRY = Script(
    HELPERS
    + """
local entry, count = unpack(cjson.decode(ARGV[2])[1])
if is_held(KEYS[2], ARGV[1], entry, count) then
    local fields = fields_of(KEYS[2], entry, count)
    if fields then
        set(fields, 'envelope', ARGV[4])
        redis.call('ZADD', KEYS[4], now() + ARGV[3], redis.call('XADD', KEYS[3], '*', unpack(fields)))
    end
    remove(KEYS[2], {entry})
end
"""
)

# ARGV: consumer. Releases all it holds, then forgets it.
LEAVE = Script(
    HELPERS
    + """
local held
repeat
    held = redis.call('XPENDING', KEYS[2], GROUP, '-', '+', 1000, ARGV[1])
    for _, pending in ipairs(held) do
        release(KEYS[2], pending[1], pending[4])
    end
until #held == 0
redis.call('XGROUP', 'DELCONSUMER', KEYS[2], GROUP, ARGV[1])
"""
)

ALL = (LOOK, ACK, EXTEND, RELEASE, RETRY, LEAVE)
