"""How our processes connect to Redis."""

from __future__ import annotations

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_SECONDS = 5.0
MOST_CONNECTIONS = 32  # each is held for a round trip; who finds none free waits for one


def connect(url: str) -> Redis:
    """A client with bounded waits and no hidden retries: a transaction sent twice would put a job on its queue twice.

    `url` is redis://, rediss:// or unix://. Replies stay bytes, as RQ expects. Raises ValueError for other URLs.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MOST_CONNECTIONS,
        timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=15,
    )
    return Redis(connection_pool=pool)
