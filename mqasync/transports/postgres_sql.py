"""The SQL of transports/postgres.py, and nothing that runs it; names are found by search_path, in our schema alone."""

# A row is one message in one queue. `due`: when it can be taken. `held`: it was taken and not settled.
# `taken`: how often, to fence off an owner whose lease ran out. `returned`: how often a lease ran out.
# Many processes may do this at once: the lock makes them wait for each other.
# Dead rows are vacuumed early, since every message leaves some.
MAKE = """
SELECT pg_advisory_xact_lock(7236083771942);
CREATE SCHEMA IF NOT EXISTS "{schema}";
CREATE TABLE IF NOT EXISTS "{schema}".queues (
    queue bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, exchange text NOT NULL, id text NOT NULL,
    bound boolean NOT NULL, UNIQUE (exchange, id)
);
CREATE TABLE IF NOT EXISTS "{schema}".expiring (
    queue bigint PRIMARY KEY, seconds float8 NOT NULL, ends timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS "{schema}".messages (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, queue bigint NOT NULL, due timestamptz NOT NULL,
    held boolean NOT NULL DEFAULT false, taken integer NOT NULL DEFAULT 0, returned integer NOT NULL DEFAULT 0,
    attempt bigint NOT NULL, envelope bytea NOT NULL, body bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX IF NOT EXISTS next_due ON "{schema}".messages (queue, due, n);
"""
MADE = """
SELECT to_regclass('queues') IS NOT NULL AND to_regclass('expiring') IS NOT NULL AND to_regclass('messages') IS NOT NULL
"""

# Statistics of a queue that was empty must not make the planner read all of a full one.
SESSION = """
SET search_path = "{schema}";
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
"""
# An acknowledgement may get lost, and what was taken comes again: neither waits for the disk.
RELAXED = "SET synchronous_commit = off"
UNSAFE = """
SELECT string_agg(name || ' = off', ', ' ORDER BY name) FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off'
"""

DECLARE = """
INSERT INTO queues (exchange, id, bound) VALUES ($1, $2, $3)
ON CONFLICT (exchange, id) DO UPDATE SET bound = true WHERE excluded.bound AND NOT queues.bound
"""
# In one statement, or EXPIRE might delete the queue before it is marked as used.
DECLARE_EXPIRING = """
WITH declared AS (
    INSERT INTO queues (exchange, id, bound) VALUES ($1, $2, $3)
    ON CONFLICT (exchange, id) DO UPDATE SET bound = queues.bound OR excluded.bound RETURNING queue
)
INSERT INTO expiring SELECT queue, $4::float8, now() + make_interval(secs => $4) FROM declared
ON CONFLICT (queue) DO UPDATE SET seconds = excluded.seconds, ends = excluded.ends
"""
USED = "UPDATE expiring SET ends = now() + make_interval(secs => seconds) WHERE queue = $1"
EXPIRES = "SELECT seconds FROM expiring WHERE queue = $1"
# Leaves what somebody declares, uses or deletes at this moment: there is nothing to wait for.
EXPIRE = """
WITH expired AS MATERIALIZED (
    SELECT queue FROM queues JOIN expiring USING (queue) WHERE ends < now() FOR UPDATE SKIP LOCKED
), gone AS (DELETE FROM queues USING expired WHERE queues.queue = expired.queue RETURNING queues.queue),
expiry AS (DELETE FROM expiring USING gone WHERE expiring.queue = gone.queue)
DELETE FROM messages USING gone WHERE messages.queue = gone.queue
"""
DELETE = """
WITH gone AS (DELETE FROM queues WHERE exchange = $1 AND id = $2 RETURNING queue),
expiry AS (DELETE FROM expiring USING gone WHERE expiring.queue = gone.queue)
DELETE FROM messages USING gone WHERE messages.queue = gone.queue
"""
QUEUE = "SELECT queue FROM queues WHERE exchange = $1 AND id = $2"
QUEUES = "SELECT exchange, id FROM queues LEFT JOIN expiring USING (queue) WHERE ends IS NULL ORDER BY exchange, id"
# Without an id ($2) into every bound queue that has not expired.
PUT = """
INSERT INTO messages (queue, due, attempt, envelope, body)
SELECT queue, now() + make_interval(secs => $3), attempt, envelope, body
FROM queues, unnest($4::bigint[], $5::bytea[], $6::bytea[]) WITH ORDINALITY AS given (attempt, envelope, body, place)
WHERE exchange = $1 AND (id = $2 OR bound AND $2 IS NULL AND NOT EXISTS (
    SELECT FROM expiring WHERE expiring.queue = queues.queue AND ends < now()
)) ORDER BY place
"""
NOTIFY = "SELECT pg_notify($1, $2)"
# MATERIALIZED: evaluated once, or more than the limit might be taken.
TAKE = """
WITH next AS MATERIALIZED (
    SELECT n FROM messages WHERE queue = $1 AND due <= now() ORDER BY due, n LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE messages SET due = now() + make_interval(secs => $3), held = true, taken = taken + 1,
    returned = returned + held::integer
FROM next WHERE messages.n = next.n
RETURNING messages.n, taken, returned, attempt, envelope, body
"""
# No row where there is no such queue.
NEXT_DUE = """
SELECT coalesce((
    SELECT extract(epoch FROM min(due) - now())::float8 FROM messages WHERE messages.queue = queues.queue
), 'infinity') FROM queues WHERE queue = $1
"""
# now() is when the statement began: what was published before its snapshot was taken would count as delayed.
STATS = """
SELECT count(*), count(*) FILTER (WHERE due > (SELECT clock_timestamp()) AND NOT held) FROM messages WHERE queue = $1
"""

# What settles takes the columns n and taken of the rows, and leaves alone what somebody else has taken since.
ACK = """
DELETE FROM messages AS m USING unnest($1::bigint[], $2::integer[]) AS tag (n, taken)
WHERE m.n = tag.n AND m.taken = tag.taken AND held
"""
RETRY = """
UPDATE messages AS m SET held = false, attempt = attempt + 1, due = now() + make_interval(secs => $3)
FROM unnest($1::bigint[], $2::integer[]) AS tag (n, taken) WHERE m.n = tag.n AND m.taken = tag.taken AND held
"""
# First in line again.
RELEASE = """
UPDATE messages AS m SET held = false, due = to_timestamp(0)
FROM unnest($1::bigint[], $2::integer[]) AS tag (n, taken) WHERE m.n = tag.n AND m.taken = tag.taken AND held
"""
EXTEND = """
UPDATE messages AS m SET due = now() + make_interval(secs => $3)
FROM unnest($1::bigint[], $2::integer[]) AS tag (n, taken) WHERE m.n = tag.n AND m.taken = tag.taken AND held
"""
