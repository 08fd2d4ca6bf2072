"""Which engine is due, and which waiting request enters. Pure Python: no torch, no redis.

Every engine with work gets one call a round, and a call is bounded in time; so a long text cannot starve a picture nor
the reverse. Requests enter their engine in order of arrival, as soon as it has room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

R = TypeVar("R", contravariant=True)


class Schedulable(Protocol[R]):
    """What the scheduler needs to know of an engine."""

    @property
    def busy(self) -> bool: ...

    @property
    def jobs(self) -> list[str]: ...

    def fits(self, request: R) -> bool: ...

    def add(self, job_id: str, request: R) -> None: ...

    def remove(self, job_id: str, choice: int | None = None) -> None: ...


class Scheduler(Generic[R]):
    """Holds the requests that wait; the engines hold those that run. A job is in exactly one of both."""

    def __init__(self, engines: dict[str, Schedulable[R]]) -> None:
        self._engines = engines
        self._waiting: dict[str, deque[tuple[str, R]]] = {name: deque() for name in engines}
        self._round: deque[str] = deque(engines)  # who comes first moves on each round

    @property
    def busy(self) -> bool:
        return any(self._waiting.values()) or any(engine.busy for engine in self._engines.values())

    def waiting(self, name: str) -> int:
        return len(self._waiting[name])

    def submit(self, name: str, job_id: str, request: R) -> None:
        """Put a request in line. Raises KeyError for an engine that is not here."""
        self._waiting[name].append((job_id, request))

    def cancel(self, job_id: str, choice: int | None = None) -> None:
        """Forget a job, wherever it is, or one choice of a running one. Unknown ids are ignored."""
        for name, engine in self._engines.items():
            if choice is None:
                self._waiting[name] = deque(entry for entry in self._waiting[name] if entry[0] != job_id)
            engine.remove(job_id, choice)

    def clear(self, name: str) -> None:
        """Forget everything of one engine, what waits for it and what it runs."""
        engine = self._engines[name]
        for job_id in engine.jobs:
            engine.remove(job_id)
        self._waiting[name].clear()

    def admit(self, on_refused: Callable[[str, Exception], None]) -> None:
        """Let requests in where there is room. One that its engine refuses is reported and harms nobody else."""
        for name, engine in self._engines.items():
            waiting = self._waiting[name]
            while waiting and engine.fits(waiting[0][1]):
                job_id, request = waiting.popleft()
                try:
                    engine.add(job_id, request)
                except Exception as error:  # whatever it is, it is this request's alone
                    engine.remove(job_id)
                    on_refused(job_id, error)

    def due(self) -> list[str]:
        """Engines that get a call this round."""
        self._round.rotate(-1)
        return [name for name in self._round if self._engines[name].busy]
