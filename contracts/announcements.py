"""What a worker tells the servers: which models it serves and what it has done so far. Renewed every few seconds."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis

from contracts import keys
from contracts.bundle import Task
from contracts.requests import MAX_SEED, Target

FIRST_PAYLOADS = frozenset({"text:2", "image:1", "classify:1"})  # of workers that do not say
Counter = Annotated[int, Field(ge=0, le=MAX_SEED)]  # what a metric can show
Rate = Annotated[float, Field(ge=0)]
HistogramName = Literal["batch_size", "call_seconds", "queue_seconds", "first_token_seconds", "between_tokens_seconds"]

_WAIT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
BOUNDS: dict[HistogramName, tuple[float, ...]] = {
    "batch_size": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "call_seconds": (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
    "queue_seconds": _WAIT_SECONDS,
    "first_token_seconds": _WAIT_SECONDS,
    "between_tokens_seconds": (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0),
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Histogram(_Frozen):
    """How often something was observed, by its size: one count per bound of BOUNDS, the last for all larger ones."""

    counts: Annotated[tuple[Counter, ...], Field(max_length=32)]
    sum: Annotated[float, Field(ge=0)]


class EngineCounters(_Frozen):
    """Of one model on one worker, counted since the worker's start.

    A call's batch size is the rows, pictures or texts that it ran for requests. The other histograms are of jobs: from
    being put on the queue to being claimed, from there too to the first token, and between two tokens of one text.
    """

    units: Counter = 0  # tokens or pictures made, texts classified
    prompt_tokens: Counter = 0
    jobs: dict[Annotated[str, Field(pattern="^[a-z_]{1,32}$")], Counter] = {}  # ended, by outcome or error code
    histograms: dict[HistogramName, Histogram] = {}
    slots: Counter = 0  # rows, or requests for pictures, that it may run at once
    slots_used: Counter = 0
    waiting: Counter = 0  # requests that the worker holds for it
    work_per_second: Rate | None = None  # that ended jobs had asked for, of all together; None: none has ended yet
    seconds_per_work: Rate | None = None  # of a single job in the company of others


class ServedModel(_Frozen):
    target: Target
    task: Task
    digest: str
    fingerprint: str = ""
    batch_invariant: bool = False
    counters: EngineCounters = EngineCounters()


class Announcement(_Frozen):
    worker: str
    device: str
    ready: bool
    models: tuple[ServedModel, ...]
    payloads: frozenset[str] = FIRST_PAYLOADS  # that it reads
    candidate: bool = False  # what it serves is not given to requests that leave the choice to us
    child_restarts: Counter = 0


def announce(connection: Redis, announcement: Announcement) -> None:
    with connection.pipeline() as pipe:
        pipe.set(keys.worker(announcement.worker), announcement.model_dump_json(), ex=keys.ANNOUNCEMENT_SECONDS)
        pipe.sadd(keys.WORKERS, announcement.worker)
        pipe.execute()


def withdraw(connection: Redis, worker: str) -> None:
    with connection.pipeline() as pipe:
        pipe.delete(keys.worker(worker))
        pipe.srem(keys.WORKERS, worker)
        pipe.execute()


def read_announcements(connection: Redis) -> list[Announcement]:
    """Announcements of all workers that have renewed theirs lately; names of the others are dropped."""
    names = sorted(cast(set[bytes], connection.smembers(keys.WORKERS)))
    if not names:
        return []
    found: list[Announcement] = []
    for name, value in zip(names, connection.mget([keys.worker("").encode() + name for name in names]), strict=True):
        if value is None:
            connection.srem(keys.WORKERS, name)
            continue
        try:
            found.append(Announcement.model_validate_json(value))
        except ValidationError:
            continue  # a worker of another version; it is not ours to remove
    return found
