"""What a Redis server says about itself: whether it is new enough, and how it can lose messages; it is not changed."""

from __future__ import annotations

from ..errors import BrokerRefused
from .redis_connection import Connection

OLDEST = (7, 0)  # the first that runs a script when it is out of memory
EVICTING = "it throws messages away when its memory is full (maxmemory-policy {}): set maxmemory-policy to noeviction"
MEMORY = "it keeps messages in memory (appendonly no), and its end loses them: set appendonly to yes"
SYNC = "its disk is written {} (appendfsync {}), and a power cut loses what came after: set appendfsync to always"
WHEN = {"everysec": "once a second", "no": "when the system likes"}
UNKNOWN = "it does not tell this user how it keeps messages: it needs `appendonly yes`, `maxmemory-policy noeviction`"


async def check(connection: Connection) -> str:
    """How this server can lose what it has confirmed, else empty. Raises BrokerRefused if it is too old."""
    try:
        information = await _information(connection)
    except BrokerRefused:
        return UNKNOWN
    version = information.get("redis_version", "")
    if version and tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise BrokerRefused(f"mqasync needs Redis {'.'.join(map(str, OLDEST))} or newer, and this is {version}")
    warnings = []
    policy = information.get("maxmemory_policy", "")
    if policy.startswith("allkeys"):
        warnings.append(EVICTING.format(policy))
    if information.get("aof_enabled") != "1":
        warnings.append(MEMORY)
    elif (fsync := await _fsync(connection)) in WHEN:
        warnings.append(SYNC.format(WHEN[fsync], fsync))
    return "; ".join(warnings)


async def _information(connection: Connection) -> dict[str, str]:
    found: dict[str, str] = {}
    for section in ("server", "memory", "persistence"):
        text: bytes = await connection.call("INFO", section)
        for line in text.decode().splitlines():
            name, _, found[name] = line.partition(":")
    return found


async def _fsync(connection: Connection) -> str:
    """Its setting appendfsync; empty where it is not told, as by most who rent Redis out."""
    try:
        reply: list[bytes] = await connection.call("CONFIG", "GET", "appendfsync")
    except BrokerRefused:
        return ""
    return reply[1].decode() if len(reply) == 2 else ""
