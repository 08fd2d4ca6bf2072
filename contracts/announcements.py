"""What a worker tells the servers: which models it serves and what it has done so far. Renewed every few seconds."""

from __future__ import annotations

from typing import Annotated, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis

from contracts import keys
from contracts.bundle import Task
from contracts.requests import MAX_SEED, Target

BATCH_SIZE_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


Counter = Annotated[int, Field(ge=0, le=MAX_SEED)]  # what a metric can show


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class EngineCounters(_Frozen):
    """Counted since the worker's start. A call's batch size is the rows, pictures or texts it ran for requests."""

    calls: Counter = 0
    call_seconds: float = 0.0
    units: Counter = 0  # tokens or pictures made, texts classified
    batch_sizes: tuple[Counter, ...] = (0,) * (len(BATCH_SIZE_BOUNDS) + 1)  # calls per bound, the last for larger ones
    running: Counter = 0
    waiting: Counter = 0

    def after_call(self, batch_size: int, units: int, seconds: float) -> EngineCounters:
        index = next((i for i, bound in enumerate(BATCH_SIZE_BOUNDS) if batch_size <= bound), len(BATCH_SIZE_BOUNDS))
        sizes = tuple(count + (i == index) for i, count in enumerate(self.batch_sizes))
        return self.model_copy(
            update={
                "calls": self.calls + 1,
                "call_seconds": self.call_seconds + seconds,
                "units": self.units + units,
                "batch_sizes": sizes,
            }
        )


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
