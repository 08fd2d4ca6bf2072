"""URLs of stored pictures. Whoever has one may fetch that picture until it expires, without a key: it is signed."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from typing import cast

from flask import url_for
from redis import Redis

from contracts import keys
from contracts.errors import Forbidden, NotFound
from contracts.jobs import JobRecord
from contracts.requests import ImageRequest

SECRET_BYTES = 32
CACHE_SECONDS = 1.0
_SIGNATURE = re.compile("[0-9a-f]{64}")


class PictureUrls:
    """Made and checked with one secret of all servers on a Redis, which is read at most once a second."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection
        self._secret: bytes | None = None
        self._read_at = float("-inf")  # monotonic seconds

    def of(self, record: JobRecord, request: ImageRequest) -> list[str]:
        """A URL for each file of an ended job, which had this request. Good for as long as the job is kept, under the
        host that is asked now."""
        expires = str(int(record.ended_at or 0) + record.result_seconds)
        secret = self._current_secret() or self._new_secret()
        return [
            url_for(
                "images.read_picture",
                job_id=record.id,
                file=file,
                expires=expires,
                signature=_signature(secret, record.id, file, expires),
                _external=True,
            )
            for file in (f"{index}.{request.output_format}" for index in range(request.files))
        ]

    def seconds_left(self, job_id: str, file: str, expires: str, signature: str) -> float:
        """How long a URL with these parts is still good.

        Raises Forbidden for one that no server here has made, NotFound for one that has expired, redis.RedisError.
        """
        secret = self._current_secret() if _SIGNATURE.fullmatch(signature) else None
        if secret is None or not hmac.compare_digest(signature, _signature(secret, job_id, file, expires)):
            raise Forbidden("The signature does not fit the rest of this URL; use URLs of pictures as they were given.")
        seconds = int(expires) - time.time()
        if seconds <= 0:
            raise NotFound("This URL has expired, and its picture with it; draw it again with the same seed.")
        return seconds

    def _current_secret(self) -> bytes | None:
        now = time.monotonic()
        if self._secret is None or now - self._read_at > CACHE_SECONDS:
            self._secret = cast(bytes | None, self._redis.get(keys.URL_SECRET))
            self._read_at = now
        return self._secret

    def _new_secret(self) -> bytes:
        """The first server that needs it makes it; all others take that one."""
        self._redis.set(keys.URL_SECRET, secrets.token_bytes(SECRET_BYTES), nx=True)
        self._secret = cast(bytes, self._redis.get(keys.URL_SECRET))
        return self._secret


def _signature(secret: bytes, job_id: str, file: str, expires: str) -> str:
    # A line each: none of the three that we sign holds a line break, so no other three can make the same text.
    return hmac.new(secret, f"{job_id}\n{file}\n{expires}".encode(), hashlib.sha256).hexdigest()
