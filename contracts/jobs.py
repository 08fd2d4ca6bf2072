"""A job as RQ keeps it: one RQ job is one request. Enqueue, read, cancel, delete.

The job's function is a real importable one, so a stock `rq worker --serializer json` can run it, one at a time.
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError
from rq import Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer

from contracts import keys
from contracts.errors import BodyTooLarge, InvalidRequest, KamishibaiError, NotFound, from_record
from contracts.lua import CLOCK, EXPIRE_TEXTS, WHOLE
from contracts.requests import ClassifyRequest, ImageRequest, Request, TextRequest, parse_request
from contracts.results import RESULT, ClassifyResult, ImageResult, Result, TextResult

JOB_FUNCTION = "workers.tasks.perform"
LOST_LEASES_ALLOWED = 3
MAX_DATA_BYTES = 16 << 20  # of a job's data; a thousandth of that in zlib can stand for it
MOST_AT_ONCE = 64  # jobs in one round trip: Redis serves the others between two of them
MAX_REASON_BYTES = 1 << 20  # of why a job failed
MAX_META_BYTES = 1 << 12
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

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
    owner: str | None  # id of the API key that made it; None: made while there were no keys

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class JobQueue:
    """The queue's client side."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection
        self._queues: dict[str, Queue] = {}  # RQ asks for the server's version once per Queue object
        self._cancel = connection.register_script(CANCEL)

    def enqueue(
        self,
        request: Request,
        *,
        result_seconds: int,
        timeout_seconds: int,
        job_id: str | None = None,
        owner: str | None = None,
        request_id: str | None = None,
    ) -> str:
        """Put a request on its queue in one transaction and ring the bell. Returns the job's id.

        Once this returns, the job is the queue's: it ends in exactly one terminal state. `owner` is whose job it is:
        the id of an API key; `request_id` names the HTTP request in the logs of all who handle the job. Raises
        BodyTooLarge for a request that no worker would read.
        """
        queue = self._queue(request.target.queue_name)
        job = Job.create(
            JOB_FUNCTION,
            args=[request.model_dump(mode="json")],
            connection=self._redis,
            serializer=JSONSerializer,
            id=job_id or new_job_id(),
            origin=queue.name,
            description=f"{request.task} {request.target.model}@{request.target.version}",
            timeout=timeout_seconds,
            result_ttl=result_seconds,
            failure_ttl=result_seconds,
            meta={name: value for name, value in (("owner", owner), ("request_id", request_id)) if value},
        )
        if len(job.data) > MAX_DATA_BYTES:
            raise BodyTooLarge(f"As a job the request has {len(job.data)} bytes, over {MAX_DATA_BYTES}; send less.")
        # RQ's own cleanup fails a job whose lease has run out unless retries are left; see docs/architecture.md.
        retry = Retry(max=LOST_LEASES_ALLOWED)
        job.retries_left, job.retry_intervals = retry.max, retry.intervals
        with self._redis.pipeline() as pipe:
            queue.enqueue_job(job, pipeline=pipe)
            _ring(pipe, queue.name)
            pipe.execute()
        return job.id

    def confirm(self, job_id: str) -> JobRecord:
        """A job that was just enqueued, once Redis takes a further write. Raises redis.RedisError when it does not.

        A Redis whose disk fills up acknowledges the write that it cannot keep, and refuses all after it; were it killed
        then, the job would be lost.
        """
        self._redis.delete(keys.NOTHING)
        return self.read(job_id)

    def read(self, job_id: str) -> JobRecord:
        """Raises NotFound for an id that was never given out or has outlived its lifetime."""
        check_job_id(job_id)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hmget(_job_key(job_id), "status", "data", "created_at", "started_at", "ended_at", "meta")
            pipe.xrevrange(_results_key(job_id), count=1)
            try:
                fields, results = pipe.execute()
            except ResponseError as error:
                if "WRONGTYPE" in str(error):
                    raise no_such_job(job_id) from None
                raise
        if fields[0] is None or fields[1] is None:
            raise no_such_job(job_id)
        try:
            return _record(job_id, fields, results[0][1] if results else {})
        except InvalidRequest:
            raise no_such_job(job_id) from None  # a job of somebody else's on the same Redis

    def pictures(self, result: ImageResult) -> list[str]:
        """The pictures of a result, base64 PNG. Raises NotFound when they have outlived their lifetime."""
        if result.pictures is not None:
            return result.pictures
        stored = cast(list[bytes], self._redis.lrange(result.pictures_key or "", 0, -1))
        if len(stored) != result.count:
            raise _no_pictures()
        return [base64.b64encode(picture).decode() for picture in stored]

    def picture(self, result: ImageResult, index: int) -> bytes:
        """One picture of a result, a PNG file. Raises NotFound where there is none (any more)."""
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
            with self._redis.pipeline(transaction=False) as pipe:
                for record in records[begin : begin + MOST_AT_ONCE]:
                    for key in _keys_of(record):
                        pipe.expire(key, seconds)
                    for registry in ("finished", "failed"):
                        pipe.zadd(f"rq:{registry}:{record.request.target.queue_name}", {record.id: until}, xx=True)
                pipe.execute()

    def delete(self, record: JobRecord) -> None:
        """Forget an ended job and all that belongs to it."""
        queue = record.request.target.queue_name
        with self._redis.pipeline() as pipe:
            pipe.delete(*_keys_of(record))
            for registry in ("finished", "failed", "canceled"):
                pipe.zrem(f"rq:{registry}:{queue}", record.id)
            pipe.execute()

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

    def _queue(self, name: str) -> Queue:
        if name not in self._queues:
            self._queues[name] = Queue(name, connection=self._redis, serializer=JSONSerializer)
        return self._queues[name]


CANCEL = (
    CLOCK
    + WHOLE
    + EXPIRE_TEXTS
    + """
-- ARGV: job id. Returns 'cancelled', 'ended' or 'missing'.
-- Leaves what RQ's own Job.cancel leaves, and gives it the lifetime of a result, its place in RQ's registry included.
local id = ARGV[1]
local job = 'rq:job:' .. id
if redis.call('TYPE', job).ok ~= 'hash' then return 'missing' end
local fields = redis.call('HMGET', job, 'status', 'origin', 'worker_name', 'result_ttl')
local status, queue, worker, lifetime = fields[1], fields[2], fields[3], whole(fields[4], 3600)
if not status or not queue then return 'missing' end
if status == 'finished' or status == 'failed' or status == 'canceled' or status == 'stopped' then return 'ended' end
local now, _, iso = clock()
redis.call('LREM', 'rq:queue:' .. queue, 1, id)
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
redis.call('PUBLISH', 'kamishibai:ended', cjson.encode({id}))
return 'cancelled'
"""
)


def new_job_id() -> str:
    return uuid.uuid4().hex


def check_job_id(job_id: str) -> str:
    """Ids become parts of Redis keys. Raises NotFound for what can be no id of ours."""
    if not job_id.isascii() or not job_id.replace("-", "").isalnum() or len(job_id) > 64:
        raise no_such_job(job_id)
    return job_id


def _record(job_id: str, fields: list[bytes | None], result: dict[bytes, bytes]) -> JobRecord:
    status_of_rq, data, created_at, started_at, ended_at, meta = fields
    status = _STATUS_OF_RQ.get((status_of_rq or b"").decode(errors="replace"), "queued")
    request = request_of(data or b"")
    return JobRecord(
        id=job_id,
        status=status,
        request=request,
        created_at=unix_seconds(created_at) or 0.0,
        started_at=unix_seconds(started_at),
        ended_at=unix_seconds(ended_at),
        result=_result_of(result, job_id, request) if status == "succeeded" else None,
        error=_error_of(result) if status == "failed" else None,
        owner=_owner_of(meta),
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


def _owner_of(meta: bytes | None) -> str | None:
    return _told(meta, "owner")


def request_id_in(meta: bytes) -> str | None:
    """The id of the HTTP request that made a job, in RQ's `meta` of it; None where there is none that is sane."""
    given = _told(meta[:MAX_META_BYTES], "request_id")
    return given if given is not None and REQUEST_ID.fullmatch(given) else None


def _told(meta: bytes | None, name: str) -> str | None:
    """What RQ's `meta` of a job says."""
    try:
        value = json.loads(meta or b"{}")[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


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
    return isinstance(request, ImageRequest) and result.count == request.count and own


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


def _ring(pipe: Pipeline, queue: str) -> None:
    pipe.lpush(keys.bell(queue), "1")
    pipe.ltrim(keys.bell(queue), 0, 0)
    pipe.expire(keys.bell(queue), keys.BELL_SECONDS)


def _no_pictures() -> NotFound:
    return NotFound("The pictures of this job are past their lifetime; draw them again with the same seed.")


def no_such_job(job_id: str) -> NotFound:
    """What is said of a job that does not exist, and of one that is somebody else's."""
    return NotFound(f"There is no job {job_id[:80]!r}; perhaps it is past its lifetime.", param="id")


def _job_key(job_id: str) -> str:
    return f"rq:job:{job_id}"


def _results_key(job_id: str) -> str:
    return f"rq:results:{job_id}"
