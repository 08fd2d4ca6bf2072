"""The secrets that sign webhooks: one for each owner, in Redis. After a change the one before signs along for a day."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import NamedTuple

from redis import Redis

from contracts import keys
from contracts.lua import CLOCK

SECRET_BYTES = 32
OVERLAP_SECONDS = 24 * 3600
_PREFIX = "whsec_"


class WebhookSecret(NamedTuple):
    """`whsec_` and base64. The previous one signs, too, as long as it is there."""

    current: str
    previous: str | None
    previous_expires_at: int | None  # Unix seconds


class WebhookSecrets:
    """Every method may raise redis.RedisError."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection
        self._read = connection.register_script(READ)
        self._rotate = connection.register_script(ROTATE)

    def read(self, owner: str | None) -> WebhookSecret:
        """It is made when it is first asked for."""
        return _secret(self._read(keys=[], args=[keys.owner(owner), _new_secret()]))

    def rotate(self, owner: str | None) -> WebhookSecret:
        """A new one from now on."""
        return _secret(self._rotate(keys=[], args=[keys.owner(owner), _new_secret(), OVERLAP_SECONDS]))


def signature(secret: WebhookSecret, message_id: str, timestamp: str, body: bytes) -> str:
    """What the header `webhook-signature` holds: as many signatures as there are secrets."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    texts = [secret.current, *([secret.previous] if secret.previous else [])]
    digests = (hmac.new(base64.b64decode(text.removeprefix(_PREFIX)), signed, hashlib.sha256) for text in texts)
    return " ".join(f"v1,{base64.b64encode(each.digest()).decode()}" for each in digests)


def _new_secret() -> str:
    return _PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _secret(found: list[bytes]) -> WebhookSecret:
    current, previous, expires_at = (each.decode() for each in found)
    return WebhookSecret(current, previous or None, int(float(expires_at)) if previous else None)


READ = (
    CLOCK
    + """
-- ARGV: owner, a secret for one who has none. Returns {current, previous or '', until when or ''}.
local all, owner = 'kamishibai:webhook_secrets', ARGV[1]
redis.call('HSETNX', all, owner, ARGV[2])
local found = redis.call('HMGET', all, owner, owner .. ':previous', owner .. ':until')
if found[2] and clock() >= tonumber(found[3] or '0') then
  redis.call('HDEL', all, owner .. ':previous', owner .. ':until')
  found[2] = false
end
return {found[1], found[2] or '', found[2] and found[3] or ''}
"""
)

ROTATE = (
    CLOCK
    + """
-- ARGV: owner, its new secret, for how long the one before signs along. Returns as READ.
local all, owner = 'kamishibai:webhook_secrets', ARGV[1]
local previous, until_when = redis.call('HGET', all, owner), string.format('%d', clock() + ARGV[3])
redis.call('HSET', all, owner, ARGV[2])
if not previous then return {ARGV[2], '', ''} end
redis.call('HSET', all, owner .. ':previous', previous, owner .. ':until', until_when)
return {ARGV[2], previous, until_when}
"""
)
