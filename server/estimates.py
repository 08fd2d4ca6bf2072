"""When a job will begin and end, as far as the workers' pace up to now tells.

Work is what jobs ask for: tokens to read and write, pictures. Workers announce how much of it they get done in a
second, counting what jobs had asked for when they ended, so texts that end early are in it.
"""

from __future__ import annotations

from typing import NamedTuple

from contracts.announcements import EngineCounters
from contracts.errors import DeadlineUnreachable
from contracts.jobs import Ahead, JobQueue, JobRecord
from contracts.requests import Priority, Request, Target
from server.catalogue import Catalogue

MOST_RETRY_SECONDS = 600.0


class Estimate(NamedTuple):
    """Seconds from now. None: no job of this model has ended yet, so nobody knows."""

    jobs_ahead: int
    start_seconds: float | None
    end_seconds: float | None


class Estimates:
    def __init__(self, jobs: JobQueue, catalogue: Catalogue) -> None:
        self._jobs = jobs
        self._catalogue = catalogue

    def of_request(self, request: Request, priority: Priority) -> Estimate:
        """Of a job that is enqueued now."""
        return self._estimate(request, self._jobs.ahead(request.target, priority))

    def of_queued(self, record: JobRecord) -> Estimate:
        return self._estimate(record.request, self._jobs.ahead(record.request.target, record.priority, record.id))

    def run_seconds(self, request: Request) -> float | None:
        """From a job's start to its end."""
        paces = [each.seconds_per_work for each in self._workers(request.target)]
        known = [pace for pace in paces if pace is not None]
        return request.work * sum(known) / len(known) if known else None

    def check_deadline(self, request: Request, priority: Priority, seconds: float) -> None:
        """Raises DeadlineUnreachable for a job that will not end within so many seconds."""
        end_seconds = self.of_request(request, priority).end_seconds
        if end_seconds is not None and end_seconds > seconds:
            raise DeadlineUnreachable(
                f"'deadline_seconds' is {seconds:g}, but the job would end in about {end_seconds:.1f} seconds;"
                " give it more time, a higher priority or less to do",
                param="deadline_seconds",
            )

    def retry_seconds(self, request: Request) -> float | None:
        """When a full queue will have room for the request."""
        rate = self._work_per_second(request.target)
        return min(MOST_RETRY_SECONDS, request.work / rate) if rate else None

    def _estimate(self, request: Request, ahead: Ahead) -> Estimate:
        rate, run_seconds = self._work_per_second(request.target), self.run_seconds(request)
        if not rate or run_seconds is None:
            return Estimate(ahead.jobs, None, None)
        # Behind a queue, or where every place is taken, a job waits for the others and then for its own place.
        idle = ahead.jobs == 0 and any(
            each.slots_used + each.waiting < each.slots for each in self._workers(request.target)
        )
        start_seconds = 0.0 if idle else (ahead.work + request.work) / rate
        return Estimate(ahead.jobs, start_seconds, start_seconds + run_seconds)

    def _work_per_second(self, target: Target) -> float:
        """Of all workers together; 0 while nobody knows."""
        return sum(each.work_per_second or 0.0 for each in self._workers(target))

    def _workers(self, target: Target) -> list[EngineCounters]:
        return self._catalogue.counters(target)
