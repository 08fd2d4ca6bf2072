"""How our processes connect to Redis."""

from __future__ import annotations

import time
from queue import Empty
from typing import Any

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from contracts.sentinel import SentinelUrl, connection_options

TIMEOUT_SECONDS = 5.0
MOST_CONNECTIONS = 32  # each is held for a round trip; who finds none free waits for one
HEALTH_CHECK_SECONDS = 15
FRESH_SECONDS = 1.0  # a connection that was answered on so lately is taken for a sound one


class _Pool(BlockingConnectionPool):
    """Asks the system whether a connection is still sound only when it has not been used for a while: under gevent
    that costs as much as a round trip to Redis. One that has broken just now fails its next call."""

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """Raises redis' ConnectionError and TimeoutError."""
        self._checkpid()
        try:
            connection: AbstractConnection = self.pool.get(timeout=self.timeout) or self.make_connection()
        except Empty:
            raise RedisConnectionError(f"all {self.max_connections} connections to Redis are in use") from None
        try:
            connection.connect()
            if _is_broken(connection):
                connection.disconnect()
                connection.connect()
        except BaseException:
            self.release(connection)
            raise
        return connection


def _is_broken(connection: AbstractConnection) -> bool:
    answered_at = connection.next_health_check - HEALTH_CHECK_SECONDS  # monotonic
    if time.monotonic() - answered_at < FRESH_SECONDS:
        return False
    try:
        return bool(connection.can_read())  # it was closed, or what is there belongs to an earlier call
    except (RedisError, OSError):
        return True


def connect(url: str) -> Redis:
    """A client with bounded waits and no hidden retries: a transaction sent twice would put a job on its queue twice.

    `url` is redis://, rediss://, unix://, or one of `contracts.sentinel`. Replies stay bytes, as RQ expects. Raises
    ValueError for other URLs.
    """
    options: dict[str, Any] = {
        "max_connections": MOST_CONNECTIONS,
        "timeout": TIMEOUT_SECONDS,
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": HEALTH_CHECK_SECONDS,
    }
    if (behind_sentinels := SentinelUrl.parse(url)) is None:
        return Redis(connection_pool=_Pool.from_url(url, **options))
    return Redis(connection_pool=_Pool(**connection_options(behind_sentinels, TIMEOUT_SECONDS), **options))
