"""Leases: a worker's hold on the jobs it has claimed. Python's side of the scripts."""

from __future__ import annotations

import base64
import math
import time
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar, cast

from redis import Redis
from rq.utils import as_text

from contracts import keys
from contracts.connection import TIMEOUT_SECONDS
from contracts.errors import JobExpired, KamishibaiError, LeaseLost
from contracts.jobs import unix_seconds
from contracts.orders import JobMeta
from contracts.requests import PAYLOADS, Target
from contracts.results import Result
from workers import scripts

LEASE_SECONDS = 12
RENEW_SECONDS = 3.0
JANITOR_SECONDS = 1.0  # a lease runs out 12 to 13 s after its last renewal; noticed within 15 s

T = TypeVar("T")


@dataclass(frozen=True)
class Lease:
    """One claimed job. `execution_id` is the fencing token."""

    job_id: str
    execution_id: str
    queue: str
    data: bytes
    timeout_seconds: float
    request_id: str | None = None  # of the HTTP request that made the job
    waited_seconds: float | None = None  # in its queue; None: it has run before, or nobody knows
    seconds_to_deadline: float = math.inf  # from when it was claimed
    work: int = 0  # tokens or pictures that it asks for, at most
    claimed_at: float = field(default_factory=time.monotonic)

    @property
    def engine(self) -> str:
        """The name of what runs it, as in `Target.engine`."""
        return self.queue.rpartition("/")[0]


@dataclass(frozen=True)
class Ending:
    """How a job ended: its result or its error. Pictures are files, stored beside the job."""

    lease: Lease
    outcome: Literal["finished", "failed", "stopped"]
    result: Result | None = None
    error: KamishibaiError | None = None
    pictures: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        """An exception keeps the frames that it came through, and with them all that was read there."""
        if self.error is not None:
            self.error.__traceback__ = self.error.__context__ = None

    @property
    def label(self) -> str:
        """Its outcome in a word, for metrics and logs: `finished`, or the error's code."""
        return self.outcome if self.error is None else self.error.code

    def fields(self) -> dict[str, Any]:
        """Of its line in the log. Its message is none of them: it may quote the request."""
        waited, seconds = self.lease.waited_seconds, time.monotonic() - self.lease.claimed_at
        return {
            "request_id": self.lease.request_id,
            "job_id": self.lease.job_id,
            "model": self.lease.queue,
            "outcome": self.outcome,
            "code": None if self.error is None else self.error.code,
            "waited_seconds": None if waited is None else round(waited, 6),
            "seconds": round(seconds, 6),
        }

    def payload(self) -> bytes:
        """As RQ's Result keeps a return value or an exception."""
        if self.result is not None:
            return base64.b64encode(self.result.model_dump_json(exclude_none=True).encode())
        return encode_failure(self.error or KamishibaiError("The job ended without a result."))


def encode_failure(error: KamishibaiError) -> bytes:
    """An error's record as RQ's Result keeps an exc_string."""
    return base64.b64encode(zlib.compress(error.record().encode()))


class Leases:
    """Claims, keeps and ends jobs for one worker. Every method may raise redis' ConnectionError or TimeoutError."""

    def __init__(self, connection: Redis, worker: str, payloads: Collection[str] = PAYLOADS) -> None:
        """`payloads` are those that the worker can read; others' jobs stay in their queues."""
        self._redis = connection
        self._payloads = f",{','.join(sorted(payloads))},"
        self._worker = worker
        self._not_started = encode_failure(_not_started())
        self._ahead_seconds = 0.0  # of our monotonic clock is Redis' clock
        self._compared_at = -math.inf
        self._claim = connection.register_script(scripts.CLAIM)
        self._complete = connection.register_script(scripts.COMPLETE)
        self._publish = connection.register_script(scripts.PUBLISH)
        self._renew = connection.register_script(scripts.RENEW)
        self._release = connection.register_script(scripts.RELEASE)
        self._recover = connection.register_script(scripts.RECOVER)

    def claim(self, free: dict[str, int]) -> list[Lease]:
        """At most MOST_JOBS jobs for the engines with free places, in one call. Jobs past their deadline end here."""
        places = [value for engine, count in free.items() for value in (engine, count)]
        prefix = f"{uuid.uuid4().hex}-"
        head = (self._until(), self._worker, LEASE_SECONDS, scripts.MOST_JOBS, prefix, self._not_started)
        rows: list[list[bytes]] = self._call(self._claim, *head, self._payloads, *places)
        return [_lease(*row) for row in rows]

    def complete(self, endings: list[Ending]) -> tuple[set[str], set[str]]:
        """Write results and failures. Returns execution ids: those that had lost their lease, those with dependents."""
        lost: set[str] = set()
        dependents: set[str] = set()
        for part in _parts(endings):
            with self._redis.pipeline(transaction=False) as pipe:
                for ending in part:
                    if ending.pictures:
                        key = keys.pictures(ending.lease.job_id, ending.lease.execution_id)
                        pipe.delete(key)  # a retried write must not double them
                        pipe.rpush(key, *ending.pictures)
                        pipe.expire(key, keys.PICTURES_SECONDS)
                if pipe.command_stack:
                    pipe.execute()
            lost_here, dependents_here = self._call(
                self._complete, self._worker, *_flat((*_ids(e.lease), e.outcome, e.payload()) for e in part)
            )
            lost.update(map(as_text, lost_here))
            dependents.update(map(as_text, dependents_here))
        return lost, dependents

    def publish(self, deltas: list[tuple[Lease, int, int, str]]) -> set[str]:
        """Append and publish text of streaming jobs: (lease, choice, byte offset, text). Returns lost execution ids."""
        lost: set[str] = set()
        for part in _parts(deltas):
            rows = ((*_ids(lease), choice, offset, text) for lease, choice, offset, text in part)
            lost.update(map(as_text, self._call(self._publish, keys.TEXT_SECONDS, *_flat(rows))))
        return lost

    def renew(self, leases: list[Lease]) -> set[str]:
        """Keep the leases for another LEASE_SECONDS. Returns the execution ids that have lost theirs."""
        lost: set[str] = set()
        for part in _parts(leases):
            lost.update(map(as_text, self._call(self._renew, LEASE_SECONDS, *_flat(map(_ids, part)))))
        return lost

    def release(self, leases: list[Lease]) -> None:
        """Give jobs back to the front of their queues, in their old order; this costs them no attempt."""
        for part in _parts(leases[::-1]):
            self._call(self._release, *_flat(map(_ids, part)))

    def recover(self) -> tuple[int, int]:
        """The janitor: jobs whose lease has run out go back or fail. One worker at a time does this.

        Returns how many were given back and how many failed.
        """
        lock_milliseconds = int(JANITOR_SECONDS * 1000) - 500
        if not self._redis.set(keys.JANITOR, self._worker, nx=True, px=lock_milliseconds):
            return 0, 0
        known = cast(set[bytes], self._redis.smembers("rq:queues"))
        names = sorted(key.decode(errors="replace").removeprefix("rq:queue:") for key in known)
        queues = [name for name in names if Target.of_queue(name)]
        error = LeaseLost("The workers that ran this job disappeared, and no attempt is left; send the request again.")
        reasons = encode_failure(error), self._not_started
        again, failed = self._call(self._recover, self._until(), scripts.MOST_JOBS, *reasons, *queues)
        return int(again), int(failed)

    def _until(self) -> str:
        """When, on Redis' clock, we give up waiting for an answer. A script that takes jobs does nothing after that:
        Redis also carries out what was sent while it stood still, when nobody listens any more."""
        if time.monotonic() - self._compared_at > RENEW_SECONDS:
            seconds, microseconds = self._redis.time()
            self._compared_at = time.monotonic()
            self._ahead_seconds = seconds + microseconds / 1e6 - self._compared_at
        return f"{time.monotonic() + self._ahead_seconds + TIMEOUT_SECONDS:.6f}"

    def _call(self, script: Any, *args: Any) -> Any:
        return script(keys=[], args=args)


def _lease(job: bytes, execution: bytes, queue: bytes, data: bytes | None, timeout: bytes, *told: bytes) -> Lease:
    """`told` are the job's meta, when it was put on its queue and when it ran before, as RQ writes them, and now."""
    meta, enqueued_at, ran_at, now = told
    since = None if ran_at else unix_seconds(enqueued_at)
    read = JobMeta.read(meta)
    return Lease(
        job_id=as_text(job),
        execution_id=as_text(execution),
        queue=as_text(queue),
        data=data or b"",
        timeout_seconds=_seconds(timeout),
        request_id=read.request_id,
        waited_seconds=None if since is None else max(0.0, float(now) - since),
        work=read.work,
        seconds_to_deadline=math.inf if read.deadline is None else read.deadline - float(now),
    )


def _not_started() -> JobExpired:
    return JobExpired("The job's deadline passed while it waited in its queue; it was not started.")


def _seconds(timeout: bytes) -> float:
    """RQ's timeout of a job: none, or one that no clock can measure, is no limit."""
    try:
        seconds = float(timeout)
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf


def _ids(lease: Lease) -> tuple[str, str, str]:
    return lease.job_id, lease.execution_id, lease.queue


def _flat(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [value for row in rows for value in row]


def _parts(items: Sequence[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, scripts.MOST_JOBS)):
        yield part
