"""The ids that a queue has handled, in Redis: known to every process and after a restart; it carries no messages."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ..errors import BrokerLost, ConfigurationError
from ..masking import masked

TIMEOUT_SECONDS = 2.0  # a Redis that does not answer must not stall the queue
MAX_CONNECTIONS = 10_000  # one for each handler at work; the library's own limit of 100 would count as an outage
VERIFYING = {"ssl_cert_reqs", "ssl_check_hostname"}  # redis-py takes them from a URL


class SeenInRedis:
    """One key for each id, which Redis drops after `ttl` seconds; see mqasync/core/dedup.py for what is promised."""

    def __init__(self, url: str, exchange: str, id: str, ttl: float) -> None:
        self._address = masked(url)
        self._prefix = f"mqasync:seen:{exchange}/{id}:"
        self._milliseconds = max(1, round(ttl * 1000))
        for option in VERIFYING & dict(parse_qsl(urlsplit(url).query)).keys():
            raise ConfigurationError(f"dedup {self._address} cannot set {option}: TLS is always verified")
        try:
            self._redis = Redis.from_url(
                url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                max_connections=MAX_CONNECTIONS,
            )
            self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # refuses unknown options
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"dedup {self._address} cannot be used: {error}") from error

    async def known(self, ids: Sequence[str]) -> set[str]:
        try:
            values = await self._redis.mget([self._prefix + id for id in ids])
        except (RedisError, OSError) as error:
            raise self._lost(error) from error
        return {id for id, value in zip(ids, values, strict=True) if value is not None}

    async def add(self, ids: Sequence[str]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for id in ids:
            pipeline.set(self._prefix + id, 1, px=self._milliseconds)
        try:
            await pipeline.execute()
        except (RedisError, OSError) as error:
            raise self._lost(error) from error

    async def close(self) -> None:
        await self._redis.aclose()

    def _lost(self, error: Exception) -> BrokerLost:
        return BrokerLost(f"{self._address} cannot be asked: {error}")
