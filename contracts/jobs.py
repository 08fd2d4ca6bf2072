"""A job as RQ keeps it: one RQ job is one request. Enqueue, read, cancel, delete.

The job's function is a real importable one, so a stock `rq worker --serializer json` can run it, one at a time.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, cast

from redis import Redis
from redis.exceptions import ResponseError

from contracts import keys
from contracts.enqueue import JOB_FUNCTION, MAX_DATA_BYTES, MOST_AT_ONCE, Accepted, Enqueuer
from contracts.errors import InvalidRequest, JobExpired, KamishibaiError, NewerRequest, NotFound, from_record
from contracts.lua import CLOCK, EXPIRE_TEXTS, IS, LEAVE, RING, TOLD, WEIGH, WHOLE
from contracts.orders import NO_LIMITS, JobMeta, Order, OrderLimits
from contracts.requests import (
    PRIORITIES,
    ClassifyRequest,
    ImageRequest,
    Priority,
    Request,
    Target,
    TextRequest,
    parse_request,
)
from contracts.results import RESULT, ClassifyResult, ImageResult, Result, TextResult

MAX_REASON_BYTES = 1 << 20  # of why a job failed

Status = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
_STATUS_OF_RQ: dict[str, Status] = {
    "created": "queued",
    "queued": "queued",
    "deferred": "queued",
    "scheduled": "queued",
    "started": "running",
    "finished": "succeeded",
    "failed": "failed",
    "stopped": "cancelled",
    "canceled": "cancelled",
}
ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True)
class JobRecord:
    """What is known of a job; `result` or `error` once it has ended. Times are Unix seconds."""

    id: str
    status: Status
    request: Request
    created_at: float
    started_at: float | None
    ended_at: float | None
    result: Result | None
    error: KamishibaiError | None
    queue: str
    result_seconds: int  # how long it is kept after its end, unless it is shortened; 0: nobody knows
    meta: JobMeta

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def priority(self) -> Priority:
        last = self.queue.rpartition("/")[2]
        return last if last in PRIORITIES else "normal"


class Ahead(NamedTuple):
    """What has to be done before a job of one engine and priority can begin."""

    jobs: int
    work: float  # tokens or pictures


class JobQueue:
    """The queue's client side."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection
        self._cancel = connection.register_script(CANCEL)
        self._enqueuer = Enqueuer(connection)

    def enqueue(self, orders: Sequence[Order], limits: OrderLimits = NO_LIMITS) -> list[Accepted | KamishibaiError]:
        """What became of each order; see `Enqueuer.enqueue`. An accepted one is the queue's: it ends in exactly one
        terminal state."""
        return self._enqueuer.enqueue(orders, limits)

    def submit(self, order: Order) -> str:
        """The id of one order's job, with no limits. Raises BodyTooLarge, IdempotencyConflict."""
        (outcome,) = self.enqueue([order])
        if isinstance(outcome, KamishibaiError):
            raise outcome
        return outcome.job_id

    def confirm(self, job_id: str) -> JobRecord:
        """A job that was just enqueued, once Redis takes a further write. Raises redis.RedisError when it does not.

        A Redis whose disk fills up acknowledges the write that it cannot keep, and refuses all after it; were it killed
        then, the job would be lost.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(keys.NOTHING)  # refused, it takes the others with it
            pipe.hmget(_job_key(job_id), *_FIELDS)
            pipe.xrevrange(_results_key(job_id), count=1)
            _, fields, results = pipe.execute(raise_on_error=False)
        return _readable(job_id, fields, results)

    def read(self, job_id: str) -> JobRecord:
        """Raises NotFound for an id that was never given out or has outlived its lifetime, NewerRequest."""
        check_job_id(job_id)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hmget(_job_key(job_id), *_FIELDS)
            pipe.xrevrange(_results_key(job_id), count=1)
            fields, results = pipe.execute(raise_on_error=False)
        return _readable(job_id, fields, results)

    def listed(self, owner: str | None, after: str | None, most: int) -> list[str]:
        """Ids of an owner's listed jobs behind the one named, newest first; some may be past their lifetime.

        Raises NotFound where the one named is no longer listed.
        """
        index = keys.jobs(keys.owner(owner))
        begin = 0
        if after is not None:
            rank = cast(int | None, self._redis.zrevrank(index, check_job_id(after)))
            if rank is None:
                raise NotFound(
                    f"'after' is {after[:80]!r}, a job that is not listed any more; begin anew", param="after"
                )
            begin = rank + 1
        found = cast(list[bytes], self._redis.zrevrange(index, begin, begin + most - 1))
        return [job_id.decode() for job_id in found]

    def read_all(self, job_ids: list[str], known: Mapping[str, Request] | None = None) -> list[JobRecord]:
        """Those of these jobs that exist and can be read here. `known` are requests, by job, that need not be read."""
        records: list[JobRecord] = []
        for begin in range(0, len(job_ids), MOST_AT_ONCE):
            part = job_ids[begin : begin + MOST_AT_ONCE]
            with self._redis.pipeline(transaction=True) as pipe:
                for job_id in part:
                    pipe.hmget(_job_key(job_id), *_FIELDS)
                    pipe.xrevrange(_results_key(job_id), count=1)
                answers = pipe.execute(raise_on_error=False)
            for job_id, fields, results in zip(part, answers[::2], answers[1::2], strict=True):
                with suppress(NotFound, NewerRequest):
                    records.append(_readable(job_id, fields, results, (known or {}).get(job_id)))
        return records

    def ended(self, job_ids: list[str]) -> list[bool | None]:
        """Of each job whether it has ended; None for one that is not there (any more)."""
        statuses: list[bytes | None] = []
        for begin in range(0, len(job_ids), MOST_AT_ONCE):
            with self._redis.pipeline(transaction=False) as pipe:
                for job_id in job_ids[begin : begin + MOST_AT_ONCE]:
                    pipe.hget(_job_key(job_id), "status")
                statuses += pipe.execute()
        known = [None if each is None else each.decode(errors="replace") for each in statuses]
        return [None if each is None else _STATUS_OF_RQ.get(each) in ENDED for each in known]

    def targets(self, job_ids: list[str]) -> dict[str, Target]:
        """What those of these jobs that exist run on."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hget(_job_key(job_id), "origin")
            queues = pipe.execute(raise_on_error=False)
        read = ((job_id, queue) for job_id, queue in zip(job_ids, queues, strict=True) if isinstance(queue, bytes))
        found = ((job_id, Target.of_queue(queue.decode(errors="replace"))) for job_id, queue in read)
        return {job_id: target for job_id, target in found if target}

    def pictures(self, result: ImageResult) -> list[str]:
        """The files of a result in base64. Raises NotFound when they have outlived their lifetime."""
        if result.pictures is not None:
            return result.pictures
        stored = cast(list[bytes], self._redis.lrange(result.pictures_key or "", 0, -1))
        if len(stored) != result.count:
            raise _no_pictures()
        return [base64.b64encode(picture).decode() for picture in stored]

    def picture(self, result: ImageResult, index: int) -> bytes:
        """One file of a result. Raises NotFound where there is none (any more)."""
        if result.pictures is None:
            found = cast(list[bytes], self._redis.lrange(result.pictures_key or "", index, index))
        else:
            found = list(map(base64.b64decode, result.pictures[index : index + 1]))
        if not found:
            raise _no_pictures()
        return found[0]

    def text_from(self, job_id: str, choice: int, offset: int) -> str:
        """The text of a streaming job's choice so far, from a byte offset on."""
        stored = cast(bytes, self._redis.getrange(keys.text(job_id, choice), offset, -1))
        return stored.decode(errors="replace")  # the offset is a client's word

    def cancel(self, job_id: str) -> bool:
        """Cancel a queued or running job; False if it has ended already. Raises NotFound."""
        check_job_id(job_id)
        outcome: bytes = self._cancel(keys=[], args=[job_id])
        if outcome == b"missing":
            raise no_such_job(job_id)
        return outcome == b"cancelled"

    def shorten(self, records: list[JobRecord], seconds: int) -> None:
        """Give ended jobs a lifetime of so many seconds from now on."""
        until = time.time() + seconds
        for begin in range(0, len(records), MOST_AT_ONCE):
            part = records[begin : begin + MOST_AT_ONCE]
            with self._redis.pipeline(transaction=False) as pipe:
                for key in (key for record in part for key in _keys_of(record)):
                    pipe.expire(key, seconds)
                for queue in {record.queue for record in part}:
                    lives = {record.id: until for record in part if record.queue == queue}
                    for registry in ("finished", "failed"):
                        pipe.zadd(f"rq:{registry}:{queue}", lives, xx=True)
                pipe.execute()

    def delete(self, record: JobRecord) -> None:
        """Forget an ended job and all that belongs to it."""
        with self._redis.pipeline() as pipe:
            pipe.delete(*_keys_of(record))
            for registry in ("finished", "failed", "canceled"):
                pipe.zrem(f"rq:{registry}:{record.queue}", record.id)
            pipe.zrem(keys.jobs(keys.owner(record.meta.owner)), record.id)
            pipe.execute()

    def ahead(self, target: Target, priority: Priority, job_id: str | None = None) -> Ahead:
        """What waits before a queued job, or, without an id, before one that is enqueued now."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(keys.load(target.engine), "work")
            pipe.lpos(f"rq:queue:{target.queue(priority)}", job_id or "")
            for queue in target.queues:
                pipe.llen(f"rq:queue:{queue}")
            work, place, *lengths = pipe.execute()
        index = PRIORITIES.index(priority)
        jobs = sum(lengths[:index]) + (lengths[index] if place is None else place)
        return Ahead(jobs, jobs * max(0, int(work or 0)) / max(1, sum(lengths)))

    def depth(self, queue_names: list[str]) -> list[int]:
        """Jobs waiting in each queue."""
        with self._redis.pipeline(transaction=False) as pipe:
            for name in queue_names:
                pipe.llen(f"rq:queue:{name}")
            depths: list[int] = pipe.execute()
        return depths

    def unfinished(self, queue_names: list[str]) -> list[int]:
        """Jobs of each queue that wait or run."""
        with self._redis.pipeline(transaction=False) as pipe:
            for name in queue_names:
                pipe.zcard(f"rq:wip:{name}")
            running: list[int] = pipe.execute()
        return [sum(counts) for counts in zip(self.depth(queue_names), running, strict=True)]


CANCEL = (
    CLOCK
    + WHOLE
    + EXPIRE_TEXTS
    + IS
    + RING
    + TOLD
    + WEIGH
    + LEAVE
    + """
-- ARGV: job id. Returns 'cancelled', 'ended' or 'missing'.
-- Leaves what RQ's own Job.cancel leaves, and gives it the lifetime of a result, its place in RQ's registry included.
local id = ARGV[1]
local job = 'rq:job:' .. id
if redis.call('TYPE', job).ok ~= 'hash' then return 'missing' end
local fields = redis.call('HMGET', job, 'status', 'origin', 'worker_name', 'result_ttl', 'meta')
local status, queue, worker, lifetime = fields[1], fields[2], fields[3], whole(fields[4], 3600)
if not status or not queue then return 'missing' end
if status == 'finished' or status == 'failed' or status == 'canceled' or status == 'stopped' then return 'ended' end
local now, _, iso = clock()
redis.call('LREM', 'rq:queue:' .. queue, 1, id)
if status == 'queued' then weigh(queue, id, -1) end
redis.call('ZREM', 'rq:scheduled:' .. queue, id)
for _, execution in ipairs(redis.call('ZRANGE', 'rq:executions:' .. id, 0, -1)) do
  redis.call('ZREM', 'rq:wip:' .. queue, id .. ':' .. execution)
  redis.call('DEL', 'rq:execution:' .. id .. ':' .. execution)
end
redis.call('DEL', 'rq:executions:' .. id)
redis.call('HSET', job, 'status', 'canceled', 'ended_at', iso)
redis.call('ZADD', 'rq:canceled:' .. queue, math.floor(now) + lifetime, id)
redis.call('EXPIRE', job, lifetime)
expire_texts(id, lifetime)
if status == 'started' and worker and worker ~= '' then
  redis.call('PUBLISH', 'rq:pubsub:' .. worker, cjson.encode({command = 'stop-job', job_id = id}))
end
leave(id, fields[5], now)
redis.call('PUBLISH', 'kamishibai:ended', cjson.encode({id}))
return 'cancelled'
"""
)


def accepted(order: Order) -> JobRecord:
    """A job as whoever has just put it on its queue knows it."""
    return JobRecord(
        id=order.job_id,
        status="queued",
        request=order.request,
        created_at=time.time(),
        started_at=None,
        ended_at=None,
        result=None,
        error=None,
        queue=order.queue,
        result_seconds=order.result_seconds,
        meta=order.meta,
    )


def check_job_id(job_id: str) -> str:
    """Ids become parts of Redis keys. Raises NotFound for what can be no id of ours."""
    if not job_id.isascii() or not job_id.replace("-", "").isalnum() or len(job_id) > 64:
        raise no_such_job(job_id)
    return job_id


_FIELDS = ("status", "data", "created_at", "started_at", "ended_at", "origin", "result_ttl", "meta")


def _readable(job_id: str, fields: Any, results: Any, request: Request | None = None) -> JobRecord:
    """A job as Redis has answered. Raises NotFound for what is none of ours, NewerRequest, ResponseError for another
    fault."""
    for answer in (fields, results):
        if isinstance(answer, ResponseError) and "WRONGTYPE" not in str(answer):
            raise answer
    if not isinstance(fields, list) or not isinstance(results, list) or fields[0] is None or fields[1] is None:
        raise no_such_job(job_id)
    try:
        return _record(job_id, fields, results[0][1] if results else {}, request)
    except NewerRequest:
        raise
    except InvalidRequest:
        raise no_such_job(job_id) from None  # a job of somebody else's on the same Redis


def _record(job_id: str, fields: list[bytes | None], result: dict[bytes, bytes], request: Request | None) -> JobRecord:
    status_of_rq, data, created_at, started_at, ended_at, origin, lifetime, meta = fields
    status = _STATUS_OF_RQ.get((status_of_rq or b"").decode(errors="replace"), "queued")
    request = request or request_of(data or b"")
    error = _error_of(result) if status == "failed" else None
    return JobRecord(
        id=job_id,
        status="expired" if isinstance(error, JobExpired) else status,
        request=request,
        created_at=unix_seconds(created_at) or 0.0,
        started_at=unix_seconds(started_at),
        ended_at=unix_seconds(ended_at),
        result=_result_of(result, job_id, request) if status == "succeeded" else None,
        error=error,
        queue=(origin or b"").decode(errors="replace"),
        result_seconds=int(lifetime) if lifetime and lifetime.isdigit() else 0,
        meta=JobMeta.read(meta),
    )


def request_of(data: bytes) -> Request:
    """The request in the `data` field of RQ's job hash. Raises InvalidRequest for anything that is not ours."""
    try:
        function, instance, args, kwargs = json.loads(_inflate(data, MAX_DATA_BYTES))
    except (ValueError, TypeError, zlib.error, RecursionError):
        raise InvalidRequest(
            f"The job's data is not JSON of ours; it is zlib of at most {MAX_DATA_BYTES} bytes."
        ) from None
    if function != JOB_FUNCTION or instance is not None or kwargs or not isinstance(args, list) or len(args) != 1:
        asked = repr(function[:80]) if isinstance(function, str) else "no function"
        raise InvalidRequest(f"The job asks for {asked}; only {JOB_FUNCTION} with one request is run here.")
    return parse_request(args[0])


def _inflate(data: bytes, most: int) -> bytes:
    """What zlib has packed. Raises zlib.error, and ValueError where it is more than `most` bytes or breaks off."""
    stream = zlib.decompressobj()
    content = stream.decompress(data, most + 1)
    if not stream.eof or len(content) > most:
        raise ValueError(f"it breaks off, or is more than {most} bytes")
    return content


def _result_of(result: dict[bytes, bytes], job_id: str, request: Request) -> Result | None:
    try:
        found = RESULT.validate_json(base64.b64decode(result[b"return_value"]))
    except (KeyError, ValueError):
        return None
    return found if _answers(found, job_id, request) else None


def _answers(result: Result, job_id: str, request: Request) -> bool:
    """Whether a result is one of this request's, and names no keys of others."""
    if isinstance(result, TextResult):
        return isinstance(request, TextRequest) and len(result.choices) == request.n
    if isinstance(result, ClassifyResult):
        return isinstance(request, ClassifyRequest) and len(result.classifications) == len(request.texts)
    key = result.pictures_key
    own = key is None or key.startswith(keys.pictures(job_id, ""))
    return isinstance(request, ImageRequest) and result.count == request.files and own


def _error_of(result: dict[bytes, bytes]) -> KamishibaiError:
    try:
        return from_record(_inflate(base64.b64decode(result[b"exc_string"]), MAX_REASON_BYTES).decode())
    except (KeyError, ValueError, zlib.error):
        return from_record("")  # RQ has left no reason, or its results have expired before the job


def unix_seconds(iso: bytes | None) -> float | None:
    """A time as RQ writes it; None for what is none."""
    try:
        return datetime.fromisoformat(iso.decode()).timestamp() if iso else None
    except (ValueError, OverflowError):
        return None  # not a time that RQ wrote


def _keys_of(record: JobRecord) -> list[str]:
    """What Redis holds of a job alone."""
    choices = record.request.n if isinstance(record.request, TextRequest) and record.request.stream else 0
    found = [_job_key(record.id), _results_key(record.id), *(keys.text(record.id, each) for each in range(choices))]
    if isinstance(record.result, ImageResult) and record.result.pictures_key:
        found.append(record.result.pictures_key)
    return found


def _no_pictures() -> NotFound:
    return NotFound("The pictures of this job are past their lifetime; draw them again with the same seed.")


def no_such_job(job_id: str) -> NotFound:
    """What is said of a job that does not exist, and of one that is somebody else's."""
    return NotFound(f"There is no job {job_id[:80]!r}; perhaps it is past its lifetime.", param="id")


def _job_key(job_id: str) -> str:
    return f"rq:job:{job_id}"


def _results_key(job_id: str) -> str:
    return f"rq:results:{job_id}"
