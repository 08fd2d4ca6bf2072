"""Webhooks that are to be sent, in Redis. Whoever ends a job that has one leaves the job's id here.

A clerk that takes an id pushes its time ahead; unless it has dealt with it by then, another clerk takes it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from redis import Redis

from contracts import keys
from contracts.lua import CLOCK

CLAIM_SECONDS = 60
MOST_CLAIMED = 64  # in one call


class Claim(NamedTuple):
    """A job whose webhook is this clerk's for CLAIM_SECONDS."""

    job_id: str
    attempts: int  # that have failed


class WebhookQueue:
    """Every method may raise redis.RedisError."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection
        self._claim = connection.register_script(CLAIM)
        self._put_off = connection.register_script(PUT_OFF)

    def claim(self, most: int) -> list[Claim]:
        """Those that are due, the longest waiting first."""
        found: list[bytes] = self._claim(keys=[], args=[min(most, MOST_CLAIMED), CLAIM_SECONDS])
        return [Claim(job_id.decode(), int(attempts)) for job_id, attempts in zip(found[::2], found[1::2], strict=True)]

    def retry(self, job_id: str, seconds: float) -> None:
        """An attempt has failed; the next one is due then."""
        self._put_off(keys=[], args=[job_id, seconds, keys.WEBHOOK_SECONDS])

    def defer(self, job_id: str, seconds: float) -> None:
        """There is no room for it now."""
        self._put_off(keys=[], args=[job_id, seconds, 0])

    def end(self, job_id: str, outcome: Literal["delivered", "dropped"]) -> None:
        """Nothing is to be sent any more."""
        with self._redis.pipeline() as pipe:
            pipe.zrem(keys.WEBHOOKS, job_id)
            pipe.delete(keys.webhook_attempts(job_id))
            pipe.hincrby(keys.WEBHOOK_COUNTS, outcome, 1)
            pipe.execute()


CLAIM = (
    CLOCK
    + """
-- ARGV: most ids, for how many seconds they are the caller's. Returns ids and how often each has failed, in turn.
local now, due = clock(), 'kamishibai:webhooks'
local found = {}
for _, id in ipairs(redis.call('ZRANGE', due, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  redis.call('ZADD', due, now + ARGV[2], id)
  found[#found + 1] = id
  found[#found + 1] = redis.call('GET', 'kamishibai:webhook_attempts:' .. id) or '0'
end
return found
"""
)

PUT_OFF = (
    CLOCK
    + """
-- ARGV: id, seconds from now, lifetime of the count of attempts, or 0 where there was none.
redis.call('ZADD', 'kamishibai:webhooks', 'XX', clock() + ARGV[2], ARGV[1])
if ARGV[3] ~= '0' then
  local attempts = 'kamishibai:webhook_attempts:' .. ARGV[1]
  redis.call('INCR', attempts)
  redis.call('EXPIRE', attempts, ARGV[3])
  redis.call('HINCRBY', 'kamishibai:webhook_counts', 'failed', 1)
end
"""
)
