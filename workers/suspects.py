"""Who may run, after an engine has died or failed: suspects in halves, then alone, and nobody else meanwhile.

Pure Python: no torch, no redis. Jobs are known by their ids.

Every job that ran when an engine died is a suspect. Suspects are tried in groups: one that all its members end in was
innocent; one that dies is cut into halves, which go to the end of the line, so that those whose company died less often
are through first. Only a job that dies alone spends an attempt. So among n jobs of which p are poison the engine dies
at most p * (log2(n), rounded up, + MOST_DEATHS_ALONE) times, and every innocent ends.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable

MOST_DEATHS_ALONE = 3  # more than one: what kills an engine may also come from outside


class Suspects:
    """A job enters, is started, perhaps several times, and leaves."""

    def __init__(self) -> None:
        self._waiting: dict[str, None] = {}  # to be started when nobody is suspected
        self._running: dict[str, None] = {}
        self._groups: deque[list[str]] = deque()  # of suspects; the first is on trial, and none is empty
        self._deaths: Counter[str] = Counter()  # of an engine, while the job ran alone

    @property
    def trying(self) -> bool:
        """Whether suspects are left. Nobody new should be let in meanwhile."""
        return bool(self._groups)

    @property
    def running(self) -> Collection[str]:
        """Jobs that have been started."""
        return self._running.keys()

    def deaths_alone(self, job: str) -> int:
        return self._deaths[job]

    def enter(self, job: str) -> None:
        self._waiting[job] = None

    def leave(self, job: str) -> None:
        """It has ended, however. Unknown ids are ignored."""
        self._waiting.pop(job, None)
        self._running.pop(job, None)
        self._deaths.pop(job, None)
        self._keep_suspects(lambda other: other != job)

    def start(self) -> list[str]:
        """The jobs that are to be started now, oldest first."""
        started = [job for job in (self._groups[0] if self._groups else self._waiting) if job not in self._running]
        for job in started:
            self._running[job] = None
            self._waiting.pop(job, None)
        return started

    def accuse(self, jobs: Iterable[str]) -> list[str]:
        """An engine died or failed with these of the running jobs. Returns those that will be started again."""
        accused = self._stop(jobs)
        self._keep_suspects(lambda job: job not in accused)
        if len(accused) == 1:
            self._deaths[accused[0]] += 1
        middle = (len(accused) + 1) // 2
        self._groups += [half for half in (accused[:middle], accused[middle:]) if half]
        return accused

    def put_back(self, jobs: Iterable[str]) -> list[str]:
        """These of the running jobs were stopped through no fault of theirs. Returns those to be started again."""
        stopped = self._stop(jobs)
        suspected = {job for group in self._groups for job in group}
        self._waiting |= dict.fromkeys(job for job in stopped if job not in suspected)
        return stopped

    def _stop(self, jobs: Iterable[str]) -> list[str]:
        wanted = set(jobs)
        stopped = [job for job in self._running if job in wanted]
        for job in stopped:
            del self._running[job]
        return stopped

    def _keep_suspects(self, condition: Callable[[str], bool]) -> None:
        kept = (list(filter(condition, group)) for group in self._groups)
        self._groups = deque(group for group in kept if group)
