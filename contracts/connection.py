"""How our processes connect to Redis."""

from __future__ import annotations

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SOCKET_TIMEOUT_SECONDS = 5.0


def connect(url: str, *, socket_timeout_seconds: float = SOCKET_TIMEOUT_SECONDS, most_connections: int = 64) -> Redis:
    """A client with bounded waits and without hidden retries: our loops say themselves what to do when Redis is away.

    `url` is redis://, rediss:// or unix://. Replies stay bytes, as RQ expects.
    """
    return Redis.from_url(
        url,
        socket_timeout=socket_timeout_seconds,
        socket_connect_timeout=socket_timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=30,
        max_connections=most_connections,
    )
