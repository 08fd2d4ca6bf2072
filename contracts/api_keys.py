"""API keys: who may ask a server, and for what. `kamishibai keys` writes them, servers only read them.

A key is `kmb_<id>_<secret>`. Redis keeps its SHA-256 alone. A slow hash, as for passwords, would add nothing: the
secret is 256 random bits, which nobody finds by trying.

All keys lie in one hash, revoked ones with their date. While that hash is there, authentication is on, so whoever
revokes the last key lets nobody in; only `forget_all` opens a server again.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis

from contracts import keys

Scope = Literal["infer", "worker", "admin"]

_TEXT = re.compile(r"kmb_([0-9a-f]{12})_[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

log = logging.getLogger(__name__)


class ApiKey(BaseModel):
    """What is kept of a key. A field that this version does not know may be a limit, so such a key is none here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    scope: Scope
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of the whole key
    created_at: int  # Unix seconds
    revoked_at: int | None = None
    jobs_per_minute: Annotated[int, Field(ge=1)] | None = None  # None: the server's default
    unfinished_jobs: Annotated[int, Field(ge=1)] | None = None  # the same

    def opens(self, text: str) -> bool:
        """Whether this is the key that a client has sent, and still good. A near miss takes as long as a far one."""
        return hmac.compare_digest(_sha256(text), self.sha256) and self.revoked_at is None

    def allows(self, scope: Scope) -> bool:
        return self.scope in (scope, "admin")


def key_id(text: str) -> str | None:
    """The id in a key's text; None for a text that is no key."""
    match = _TEXT.fullmatch(text)
    return match[1] if match else None


class ApiKeys:
    """The keys in Redis. Every method may raise redis.RedisError."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection

    def read(self) -> dict[str, ApiKey] | None:
        """All keys by id, revoked ones too; None if there have never been any, which leaves a server open."""
        found: dict[str, ApiKey] = {}
        rows = cast(dict[bytes, bytes], self._redis.hgetall(keys.API_KEYS))
        for field, row in rows.items():
            try:
                key = ApiKey.model_validate_json(row)
            except ValidationError:
                log.warning("the API key %r in Redis is damaged or of another version; it lets nobody in", field)
            else:
                found[key.id] = key
        return found if rows else None

    def create(
        self, name: str, scope: Scope, *, jobs_per_minute: int | None = None, unfinished_jobs: int | None = None
    ) -> str:
        """A new key, in the only moment in which its text is known; switches authentication on.

        Raises ValueError for a name that is none or is taken.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot name a key: use 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or"
                " digit"
            )
        if any(key.name == name and key.revoked_at is None for key in (self.read() or {}).values()):
            raise ValueError(f"there is a key {name!r} already; revoke it first, or choose another name")
        new_id = secrets.token_hex(6)
        text = f"kmb_{new_id}_{secrets.token_hex(32)}"
        key = ApiKey(
            id=new_id,
            name=name,
            scope=scope,
            sha256=_sha256(text),
            created_at=int(time.time()),
            jobs_per_minute=jobs_per_minute,
            unfinished_jobs=unfinished_jobs,
        )
        self._write(key)
        return text

    def revoke(self, name_or_id: str) -> ApiKey:
        """The key as it is then: good for nothing. Raises ValueError if no good key has this name or id."""
        good = [key for key in (self.read() or {}).values() if key.revoked_at is None]
        meant = [key for key in good if name_or_id in (key.id, key.name)]
        if len(meant) != 1:
            names = ", ".join(sorted(key.name for key in good)) or "none"
            what = f"{len(meant)} keys have the name" if meant else "no good key has the name or id"
            raise ValueError(f"{what} {name_or_id!r}; there is: {names}. `kamishibai keys list` shows their ids")
        revoked = meant[0].model_copy(update={"revoked_at": int(time.time())})
        self._write(revoked)
        return revoked

    def forget_all(self) -> None:
        """Forget all keys and switch authentication off."""
        self._redis.delete(keys.API_KEYS)

    def _write(self, key: ApiKey) -> None:
        self._redis.hset(keys.API_KEYS, key.id, key.model_dump_json())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
