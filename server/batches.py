"""Batches in Redis: what was asked, how far each is, and which clerk carries it out. All times are from Redis' clock.

A batch is a hash. Clients make, read and cancel it; only the clerk that holds its lease changes anything else. Every
write of a clerk asks for the lease: one that was stopped for a while and goes on changes nothing any more.
"""

from __future__ import annotations

import json
import time
from typing import Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Json, ValidationError
from redis import Redis

from contracts import keys
from contracts.errors import InvalidRequest, NotFound, TooManyBatches
from contracts.lua import CLOCK
from contracts.orders import OrderLimits
from contracts.requests import BatchBody, BatchEndpoint
from server.ids import id_at, new_id

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
Outcome = Literal["completed", "expired", "cancelled"]

MOST_OPEN_BATCHES = 100
MOST_BATCHES_LISTED = 100  # in one call
LEASE_SECONDS = 12
WINDOW_SECONDS = 24 * 3600
_PREFIX = "batch_"
OPEN: tuple[BatchStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")
_ENDED: frozenset[BatchStatus] = frozenset({"failed", "completed", "expired", "cancelled"})
_INDEX_SECONDS = WINDOW_SECONDS + keys.BATCH_SECONDS


class BatchFault(BaseModel):
    """What is wrong with the file of a batch."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    param: str | None = None
    line: int | None = None  # counted from 1


class BatchRecord(BaseModel):
    """What is known of a batch. Times are Unix seconds; each status but the first has one, at which it began."""

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str | None = None  # id of the API key that made it; None: made while there were no keys
    input_file_id: str
    endpoint: BatchEndpoint
    metadata: Json[dict[str, str] | None] = None
    output_seconds: int  # that the files live which it writes
    jobs_per_minute: int = 0  # limits of its key when it was made; 0: none
    unfinished_jobs: int = 0
    status: BatchStatus
    created_at: int
    expires_at: int
    total: int = 0  # 0: nobody has looked at the file yet
    completed: int = 0
    failed: int = 0
    errors: Json[list[BatchFault]] = []
    outcome: Outcome | None = None  # fixed before its files are made
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    @property
    def ended(self) -> bool:
        return self.status in _ENDED


class Page(NamedTuple):
    """Some of a list."""

    batches: list[BatchRecord]
    has_more: bool


class Beat(NamedTuple):
    """What a clerk is told when it renews its lease."""

    status: BatchStatus
    now: float  # Unix seconds


class Batches:
    """Every method may raise redis.RedisError."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection
        self._create = connection.register_script(CREATE)
        self._cancel = connection.register_script(CANCEL)
        self._beat = connection.register_script(BEAT)
        self._change = connection.register_script(CHANGE)
        self._release = connection.register_script(RELEASE)

    def create(self, body: BatchBody, owner: str | None, output_seconds: int, limits: OrderLimits) -> BatchRecord:
        """`limits` are its key's, which its jobs will count against. Raises TooManyBatches."""
        batch_id = new_id(_PREFIX)
        fields = {
            "input_file_id": body.input_file_id,
            "endpoint": body.endpoint,
            "metadata": json.dumps(body.metadata),
            "output_seconds": str(output_seconds),
            "jobs_per_minute": str(limits.jobs_per_minute),
            "unfinished_jobs": str(limits.unfinished_jobs),
        }
        if owner is not None:
            fields["owner"] = owner
        oldest = id_at(_PREFIX, time.time() - _INDEX_SECONDS)
        numbers = (WINDOW_SECONDS, keys.BATCH_SECONDS, MOST_OPEN_BATCHES)
        listed = (word for pair in fields.items() for word in pair)
        if not self._create(keys=[], args=[batch_id, keys.owner(owner), *numbers, oldest, *listed]):
            raise TooManyBatches(
                f"{MOST_OPEN_BATCHES} batches of this key have not ended, and it may have no more; wait or cancel some."
            )
        return self.read(batch_id)

    def read(self, batch_id: str) -> BatchRecord:
        """Raises NotFound for an id that was never given out or has outlived its lifetime."""
        found = self._find(batch_id) if _is_id(batch_id) else None
        if found is None:
            raise no_such_batch(batch_id)
        return found

    def page(self, owner: str | None, *, everyone: bool, limit: int, after: str | None) -> Page:
        """Up to so many batches, the newest first, behind the one with the id `after`."""
        index = keys.BATCHES if everyone else keys.batches(keys.owner(owner))
        found: list[BatchRecord] = []
        last = "+" if after is None else f"({after}"
        while len(found) <= limit:
            listed = self._redis.zrange(index, last, "-", desc=True, bylex=True, offset=0, num=limit + 1)
            ids = [each.decode() for each in cast(list[bytes], listed)]
            found += filter(None, map(self._find, ids))
            if len(ids) <= limit:
                break
            last = f"({ids[-1]}"
        return Page(found[:limit], len(found) > limit)

    def cancel(self, batch_id: str) -> BatchRecord:
        """Its clerk is told. Raises NotFound, and InvalidRequest where there is nothing left to cancel."""
        if not self._cancel(keys=[], args=[batch_id]):
            status = self.read(batch_id).status
            raise InvalidRequest(f"The batch is {status}; only one that is under way can be cancelled.", param="id")
        return self.read(batch_id)

    # For clerks

    def open(self) -> list[tuple[str, str]]:
        """Owner, as keys name it, and id of all batches that have not ended, in the order of owners and of their
        making."""
        members = (each.decode() for each in cast(list[bytes], self._redis.zrange(keys.OPEN_BATCHES, 0, -1)))
        return [(owner, batch_id) for owner, _, batch_id in (member.partition(":") for member in members)]

    def tidy(self) -> None:
        """Forget that batches are open whose time was over before any clerk came."""
        for owner, batch_id in self.open():
            if self._find(batch_id) is None:
                self._redis.zrem(keys.OPEN_BATCHES, f"{owner}:{batch_id}")

    def beat(self, batch_id: str, token: str, completed: int = 0, failed: int = 0) -> Beat | None:
        """Take or renew the lease, and note the progress. None: another clerk has it, or there is no such batch."""
        found: list[bytes] = self._beat(keys=[], args=[batch_id, token, LEASE_SECONDS, completed, failed])
        return Beat(cast(BatchStatus, found[0].decode()), float(found[1])) if found else None

    def change(
        self, record: BatchRecord, token: str, *, expected: tuple[BatchStatus, ...], **fields: str | int | None
    ) -> bool:
        """Set fields; a new status also sets its time, and one that ends the batch its lifetime. False if the lease is
        lost or the batch has none of the expected statuses."""
        given = {name: value for name, value in fields.items() if value is not None}
        status = cast(BatchStatus, given.get("status", ""))
        lifetime = keys.BATCH_SECONDS if status in _ENDED else ""
        head = (record.id, token, f",{','.join(expected)},", keys.owner(record.owner), status, lifetime)
        return bool(self._change(keys=[], args=[*head, *(word for pair in given.items() for word in pair)]))

    def release(self, batch_id: str, token: str) -> None:
        """Another clerk may have it now."""
        self._release(keys=[], args=[batch_id, token])

    def _find(self, batch_id: str) -> BatchRecord | None:
        fields = cast(dict[bytes, bytes], self._redis.hgetall(keys.batch(batch_id)))
        if not fields:
            return None
        try:
            told = {name.decode(): value.decode() for name, value in fields.items()}
            return BatchRecord.model_validate({"id": batch_id} | told)
        except (ValidationError, UnicodeDecodeError):
            return None  # not written by us


def no_such_batch(batch_id: str) -> NotFound:
    """What is said of a batch that does not exist, and of one that is somebody else's."""
    return NotFound(f"There is no batch {batch_id[:80]!r}; perhaps it is past its lifetime.", param="id")


def _is_id(text: str) -> bool:
    return text.startswith(_PREFIX) and text.isascii() and text[len(_PREFIX) :].isalnum() and len(text) <= 64


CREATE = (
    CLOCK
    + """
-- ARGV: id, owner, seconds of its window and of its life after it, most open batches of an owner, what ids begin with
--   that are too old to be listed, then fields and values. Returns 1, or 0 where the owner has too many.
local id, owner, window, life = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local open, batch = 'kamishibai:batches_open', 'kamishibai:batch:' .. id
if redis.call('ZLEXCOUNT', open, '[' .. owner .. ':', '(' .. owner .. ';') >= tonumber(ARGV[5]) then return 0 end
local now = math.floor(clock())
redis.call('HSET', batch, 'status', 'validating', 'created_at', now, 'expires_at', now + window, unpack(ARGV, 7))
redis.call('EXPIRE', batch, window + life)
redis.call('ZADD', open, 0, owner .. ':' .. id)
for _, index in ipairs({'kamishibai:batches', 'kamishibai:batches:' .. owner}) do
  redis.call('ZREMRANGEBYLEX', index, '-', '(' .. ARGV[6])
  redis.call('ZADD', index, 0, id)
  redis.call('EXPIRE', index, window + life)
end
return 1
"""
)

CANCEL = (
    CLOCK
    + """
-- ARGV: id. Returns 1 if it is being cancelled from now on or already.
local batch = 'kamishibai:batch:' .. ARGV[1]
local status = redis.call('HGET', batch, 'status')
if status == 'cancelling' then return 1 end
if status ~= 'validating' and status ~= 'in_progress' then return 0 end
redis.call('HSET', batch, 'status', 'cancelling', 'cancelling_at', math.floor(clock()))
return 1
"""
)

BEAT = (
    CLOCK
    + """
-- ARGV: id, token, seconds of the lease, lines completed and failed. Returns {status, now}, or {} where it is not ours.
local batch, lease = 'kamishibai:batch:' .. ARGV[1], 'kamishibai:batch_lease:' .. ARGV[1]
local holder = redis.call('GET', lease)
local status = redis.call('HGET', batch, 'status')
if holder and holder ~= ARGV[2] or not status then return {} end
redis.call('SET', lease, ARGV[2], 'EX', ARGV[3])
if ARGV[4] ~= '0' or ARGV[5] ~= '0' then redis.call('HSET', batch, 'completed', ARGV[4], 'failed', ARGV[5]) end
local _, now = clock()
return {status, now}
"""
)

CHANGE = (
    CLOCK
    + """
-- ARGV: id, token, statuses that it may have, owner, its new status or '', lifetime of a batch that ends or '', then
--   fields and values. Returns 1 if it was changed.
local id, batch, lease = ARGV[1], 'kamishibai:batch:' .. ARGV[1], 'kamishibai:batch_lease:' .. ARGV[1]
if redis.call('GET', lease) ~= ARGV[2] then return 0 end
local status = redis.call('HGET', batch, 'status')
if not status or not string.find(ARGV[3], ',' .. status .. ',', 1, true) then return 0 end
redis.call('HSET', batch, unpack(ARGV, 7))
if ARGV[5] ~= '' then redis.call('HSET', batch, ARGV[5] .. '_at', math.floor(clock())) end
if ARGV[6] ~= '' then
  redis.call('EXPIRE', batch, ARGV[6])
  redis.call('ZREM', 'kamishibai:batches_open', ARGV[4] .. ':' .. id)
end
return 1
"""
)

RELEASE = """
-- ARGV: id, token.
local lease = 'kamishibai:batch_lease:' .. ARGV[1]
if redis.call('GET', lease) == ARGV[2] then redis.call('DEL', lease) end
"""
