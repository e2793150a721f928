"""The SQL of transports/sqlite.py; nothing is executed here."""

# A row is one message in one queue. `due`: when it can be taken. `held`: it was taken and not settled.
# `taken`: how often, to fence off an owner whose lease ran out. `returned`: how often a lease ran out.
# `n` is never used twice, or a stale owner might settle another message.
SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS queues (
    queue INTEGER PRIMARY KEY, exchange TEXT NOT NULL, id TEXT NOT NULL, bound INTEGER NOT NULL,
    UNIQUE (exchange, id)
);
CREATE TABLE IF NOT EXISTS expiring (queue INTEGER PRIMARY KEY, seconds REAL NOT NULL, ends REAL NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
    n INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, due REAL NOT NULL,
    held INTEGER NOT NULL DEFAULT 0, taken INTEGER NOT NULL DEFAULT 0, returned INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL, envelope TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS next_due ON messages (queue, due, n);
COMMIT;
"""
# The number of a queue is random, not the next one: who still has the number of a deleted queue meets no other.
DECLARE = """
INSERT INTO queues (queue, exchange, id, bound) VALUES (abs(random()), ?, ?, ?)
ON CONFLICT (exchange, id) DO UPDATE SET bound = max(bound, excluded.bound)
"""
EXPIRE = """
INSERT INTO expiring (queue, seconds, ends) SELECT queue, ?, 0 FROM queues WHERE exchange = ? AND id = ?
ON CONFLICT DO UPDATE SET seconds = excluded.seconds
"""
USED = "UPDATE expiring SET ends = ? + seconds WHERE queue = ?"
EXPIRES = "SELECT seconds FROM expiring WHERE queue = ?"
EXPIRED = "SELECT queue FROM expiring WHERE ends < ?"
DELETE = tuple(f"DELETE FROM {table} WHERE queue = ?" for table in ("messages", "expiring", "queues"))  # noqa: S608
QUEUES = "SELECT exchange, id FROM queues LEFT JOIN expiring USING (queue) WHERE ends IS NULL ORDER BY exchange, id"
BOUND = """
SELECT queue FROM queues LEFT JOIN expiring USING (queue)
WHERE exchange = ? AND bound AND (ends IS NULL OR ends > CAST(strftime('%s', 'now') AS REAL))
"""
QUEUE = "SELECT queue FROM queues WHERE exchange = ? AND id = ?"
PUT = "INSERT INTO messages (queue, due, attempt, envelope, body) VALUES (?, ?, ?, ?, ?)"
# A stranger may have put text that is not UTF-8 into any column.
TAKE = """
UPDATE messages SET due = ?, held = 1, taken = taken + 1, returned = returned + held
WHERE n IN (SELECT n FROM messages WHERE queue = ? AND due <= ? ORDER BY due, n LIMIT ?)
RETURNING n, taken, returned, CAST(attempt AS INTEGER), CAST(envelope AS BLOB), CAST(body AS BLOB)
"""
NEXT_DUE = """
SELECT coalesce((SELECT min(due) FROM messages WHERE queue = queues.queue), 9e999)
FROM queues WHERE queue = ?
"""
UNUSED = "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size"  # bytes of the file
# The clock is read after the snapshot of the file was taken, lest what came between counts as delayed.
STATS = "SELECT count(*), coalesce(sum(due > (SELECT clock()) AND NOT held), 0) FROM messages WHERE queue = ?"
ACK = "DELETE FROM messages WHERE n = ? AND taken = ? AND held"
RETRY = "UPDATE messages SET held = 0, attempt = attempt + 1, due = ? WHERE n = ? AND taken = ? AND held"
RELEASE = "UPDATE messages SET held = 0, due = 0 WHERE n = ? AND taken = ? AND held"  # first in line again
EXTEND = "UPDATE messages SET due = ? WHERE n = ? AND taken = ? AND held"
