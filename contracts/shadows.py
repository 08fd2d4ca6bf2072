"""Shadows: a share of what one version of a model runs is also run on another version or variant, and compared.

An operator begins and ends one (`server/shadow_control.py`); a clerk carries it out (`server/shadowing.py`) and sums up
what it finds in one hash per model, which bounds what Redis holds of it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Annotated, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis

from contracts import keys
from contracts.requests import Target

COPY_PREFIX = "shadow-"  # of the ids of jobs that are made for a comparison
COPY_OWNER = "shadow"  # whose they are: no API key's, so no client is shown them

Total = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Shadow(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    live: Target
    candidate: Target
    share: Annotated[float, Field(gt=0, le=1)]  # of the live one's jobs
    begun_at: float = Field(default_factory=time.time)  # Unix seconds

    def draws(self, job_id: str) -> bool:
        """Whether a job is among those that are also run on the candidate. Everybody draws the same."""
        return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8]) < self.share * 2**64


class Tally(BaseModel):
    """What was found so far: numbers that are added up, and those called `largest`."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    drawn: Total = 0  # requests
    compared: Total = 0
    equal: Total = 0  # in everything that a client is sent
    dropped: Total = 0  # there was no room for them, or they cannot be run on the candidate
    live_failed: Total = 0
    candidate_failed: Total = 0
    parts: Total = 0  # texts, pictures or classified texts that were compared
    equal_parts: Total = 0
    agreed: Total = 0  # parts whose agreement could be measured: texts
    agreements: Total = 0  # of each the share of equal leading tokens, or 1 where the same labels apply
    measured: Total = 0  # parts whose difference could be measured
    differences: Total = 0
    largest_difference: Total = 0
    kl_tokens: Total = 0
    kl: Total = 0  # nats
    kl_squares: Total = 0
    largest_kl: Total = 0
    live_wait_seconds: Total = 0
    live_run_seconds: Total = 0
    live_units: Total = 0  # tokens or pictures made, texts classified
    candidate_wait_seconds: Total = 0
    candidate_run_seconds: Total = 0
    candidate_units: Total = 0


class Comparison(NamedTuple):
    shadow: Shadow
    running: bool
    tally: Tally


class Shadows:
    """Every method may raise redis.RedisError."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection
        self._add = connection.register_script(ADD)

    def running(self) -> dict[str, Shadow]:
        """By the name of the model."""
        found = cast(dict[bytes, bytes], self._redis.hgetall(keys.SHADOWS))
        read = {name.decode(errors="replace"): _read(value) for name, value in found.items()}
        return {name: shadow for name, shadow in read.items() if shadow}

    def begin(self, shadow: Shadow) -> None:
        """In place of the one that runs for the model, if any; what that has found is forgotten."""
        name, report = shadow.live.model, keys.shadow_report(shadow.live.model)
        with self._redis.pipeline() as pipe:
            pipe.delete(report)
            pipe.hset(report, "shadow", shadow.model_dump_json())
            pipe.expire(report, keys.SHADOW_REPORT_SECONDS)
            pipe.hset(keys.SHADOWS, name, shadow.model_dump_json())
            pipe.execute()

    def stop(self, model: str) -> bool:
        """Whether one ran. What it has found can still be read."""
        return bool(self._redis.hdel(keys.SHADOWS, model))

    def add(self, shadow: Shadow, **found: float) -> None:
        """Fields of the Tally; nothing where another shadow has taken this one's place."""
        report = keys.shadow_report(shadow.live.model)
        numbers = [value for pair in found.items() for value in pair]
        self._add(keys=[], args=[report, shadow.model_dump_json(), keys.SHADOW_REPORT_SECONDS, *numbers])

    def comparison(self, model: str) -> Comparison | None:
        """Of the shadow that runs, or else of the last one. None: there was none lately."""
        fields = cast(dict[bytes, bytes], self._redis.hgetall(keys.shadow_report(model)))
        shadow = _read(fields.pop(b"shadow", b""))
        if shadow is None:
            return None
        try:
            tally = Tally.model_validate({name.decode(errors="replace"): value for name, value in fields.items()})
        except ValidationError:
            return None  # not written by us
        return Comparison(shadow, self.running().get(model) == shadow, tally)

    def comparisons(self) -> Iterator[Comparison]:
        """Of all models for which one runs."""
        found = (self.comparison(model) for model in sorted(self.running()))
        return (comparison for comparison in found if comparison)


def _read(value: bytes) -> Shadow | None:
    try:
        return Shadow.model_validate_json(value)
    except ValidationError:
        return None


ADD = """
-- ARGV: hash, the shadow that it must be of, lifetime, then names of fields and numbers in turn
local report = ARGV[1]
if redis.call('HGET', report, 'shadow') ~= ARGV[2] then return end
for i = 4, #ARGV, 2 do
  local name, number = ARGV[i], ARGV[i + 1]
  if string.sub(name, 1, 8) ~= 'largest_' then
    redis.call('HINCRBYFLOAT', report, name, number)
  elseif tonumber(number) > (tonumber(redis.call('HGET', report, name) or '') or 0) then
    redis.call('HSET', report, name, number)
  end
end
redis.call('EXPIRE', report, ARGV[3])
"""
