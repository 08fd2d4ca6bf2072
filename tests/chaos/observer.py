"""Looks at a fleet from outside: how soon losses are noticed and made good, memory, and what is left in Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import psutil
from redis import Redis, RedisError

from tests.chaos.faults import WORKERS
from tests.chaos.fleet import Fleet
from tests.chaos.history import History

SAMPLE_SECONDS = 2.0
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 240.0
ENDED = {b"finished", b"failed", b"canceled", b"stopped"}
T = TypeVar("T")


class Held(NamedTuple):
    """A job in a worker's hands."""

    queue: str
    job: str
    execution: str


class Observer:
    """Reads Redis past the proxy. Everything it starts ends by itself or with `stop`."""

    def __init__(self, fleet: Fleet, history: History) -> None:
        self._fleet = fleet
        self._redis: Redis = fleet.redis
        self._history = history
        self._stop_asked = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._in_background(self._sample_memory)
        for worker in WORKERS:
            self._in_background(partial(self._watch_engine, worker))

    def stop(self) -> None:
        self._stop_asked.set()
        for thread in self._threads:
            thread.join()

    def watch_loss(self, worker: str) -> None:
        """A worker parent has just been killed."""
        killed_at = self._history.now()
        self._in_background(lambda: self._watch_loss(worker, killed_at))

    def watch_child_loss(self, worker: str, pid: int) -> None:
        """An engine child has just been killed."""
        killed_at = self._history.now()
        self._in_background(lambda: self._watch_child_loss(worker, pid, killed_at))

    def unfinished(self) -> list[str]:
        """Jobs in Redis that have not ended, whoever sent them."""
        jobs = [key.decode() for key in _patiently(lambda: list(self._redis.scan_iter("rq:job:*", count=1000)))]
        statuses = _patiently(lambda: [self._redis.hget(job, "status") for job in jobs])
        return [job for job, status in zip(jobs, statuses, strict=True) if status is not None and status not in ENDED]

    def record_keys(self) -> None:
        """All keys that there are, with their seconds left (-1 for ever), and the members of RQ's books of jobs."""
        for key in sorted(_patiently(lambda: list(self._redis.scan_iter(count=1000)))):
            name, books = key.decode(), ("rq:wip:", "rq:finished:", "rq:failed:", "rq:canceled:")
            entries = int(self._redis.zcard(key)) if name.startswith(books) else 0
            self._history.record("key", name=name, seconds_left=self._redis.ttl(key), entries=entries)

    def results_of(self, job: str) -> int:
        """How many results RQ has kept of a job."""
        return _patiently(lambda: int(self._redis.xlen(f"rq:results:{job}")))

    def _watch_loss(self, worker: str, killed_at: float) -> None:
        held = _patiently(lambda: self._held_by(worker))
        facts: dict[str, Any] = {"victim": worker, "killed_at": killed_at, "jobs": len(held)}
        self._history.record("lost", **facts)
        if held and self._until(lambda: not any(map(self._is_held, held))):
            self._history.record("noticed", **facts, seconds=self._history.now() - killed_at)
        if held and self._until(lambda: all(map(self._runs_again, held))):
            self._history.record("rerun", **facts, seconds=self._history.now() - killed_at)

    def _watch_child_loss(self, worker: str, pid: int, killed_at: float) -> None:
        facts: dict[str, Any] = {"victim": worker.replace("worker", "child"), "killed_at": killed_at}
        if self._until(lambda: self._child_pid(worker) not in {0, pid}):
            self._history.record("noticed", **facts, seconds=self._history.now() - killed_at)

    def _watch_engine(self, worker: str) -> None:
        """When the engine of a worker went, for whatever reason, and when one was ready again."""
        child, pid, ready = worker.replace("worker", "child"), self._child_pid(worker), self._fleet.times_ready(worker)
        while not self._stop_asked.wait(LOOK_SECONDS):
            if (now := self._child_pid(worker)) != pid and pid:
                self._history.record("engine down", victim=child)
            pid = now
            if (times := self._fleet.times_ready(worker)) > ready:
                self._history.record("engine up", victim=child)
            ready = times

    def _child_pid(self, worker: str) -> int:
        with suppress(LookupError):
            return self._fleet.child_of(worker).pid
        return 0

    def _held_by(self, worker: str) -> list[Held]:
        held = []
        for book in self._redis.scan_iter("rq:wip:*"):
            queue = book.decode().removeprefix("rq:wip:")
            for entry in cast(list[bytes], self._redis.zrange(book, 0, -1)):
                job, _, execution = entry.decode().partition(":")
                if self._redis.hget(f"rq:execution:{job}:{execution}", "worker_name") == worker.encode():
                    held.append(Held(queue, job, execution))
        return held

    def _is_held(self, held: Held) -> bool:
        return self._redis.zscore(f"rq:wip:{held.queue}", f"{held.job}:{held.execution}") is not None

    def _runs_again(self, held: Held) -> bool:
        status = self._redis.hget(f"rq:job:{held.job}", "status")
        return status is None or status in ENDED or (status == b"started" and not self._is_held(held))

    def _until(self, question: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with suppress(RedisError):
                if question():
                    return True
            time.sleep(LOOK_SECONDS)
        return False

    def _sample_memory(self) -> None:
        while not self._stop_asked.wait(SAMPLE_SECONDS):
            for role, process in self._processes():
                with suppress(psutil.Error):
                    self._history.record("memory", role=role, pid=process.pid, bytes=process.memory_info().rss)

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        for name in self._fleet.members:
            with suppress(LookupError):
                family = self._fleet.family_of(name)
                yield name, family[0]
                for process in family[1:]:
                    yield ("child" if name in WORKERS else "serving"), process

    def _in_background(self, task: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=task, daemon=True))
        self._threads[-1].start()


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again while Redis is away."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)
