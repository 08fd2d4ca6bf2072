"""Who may run, after an engine has died or failed: suspects in halves, then alone, and others in turn with them.

Pure Python: no torch, no redis. Jobs are known by their ids.

Every job that ran when an engine died is a suspect. Suspects are tried in groups: one that all its members end in was
innocent; one that dies is cut into halves, which go to the end of the line, so that those whose company died less often
are through first. Between two trials the others have a turn: those that wait by then, as one more group, so that a
poison holds up neither them nor the jobs of other workers. Only a job that dies alone spends an attempt. So among n
jobs of which p are poison the engine dies at most p * (log2(n), rounded up, + MOST_DEATHS_ALONE) times, and every
innocent ends.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable

MOST_DEATHS_ALONE = 3  # more than one: what kills an engine may also come from outside


class Suspects:
    """A job enters, is started, perhaps several times, and leaves."""

    def __init__(self) -> None:
        self._waiting: dict[str, None] = {}  # of those that nobody suspects, to be started
        self._running: dict[str, None] = {}
        self._line: deque[list[str]] = deque()  # groups of suspects that are still to be tried; none is empty
        self._turn: list[str] = []  # the group that runs now, while there are suspects
        self._others_next = False  # whether the next turn is that of those that wait
        self._deaths: Counter[str] = Counter()  # of an engine, while the job ran alone

    @property
    def trying(self) -> bool:
        """Whether turns are taken."""
        return bool(self._turn or self._line)

    @property
    def open(self) -> bool:
        """Whether somebody who enters now would be started next. Nobody should be let in otherwise."""
        return not self.trying or (self._others_next and not self._turn)

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
        self._keep(lambda other: other != job)
        self._others_next = self._others_next and self.trying

    def start(self) -> list[str]:
        """The jobs that are to be started now, oldest first."""
        if self._line and not self._turn:
            self._begin_turn()
        started = [job for job in self._turn or self._waiting if job not in self._running]
        for job in started:
            self._running[job] = None
            self._waiting.pop(job, None)
        return started

    def accuse(self, jobs: Iterable[str]) -> list[str]:
        """An engine died or failed with these of the running jobs. Returns those that will be started again."""
        accused = self._stop(jobs)
        self._keep(lambda job: job not in accused)
        if len(accused) == 1:
            self._deaths[accused[0]] += 1
        middle = (len(accused) + 1) // 2
        self._line += [half for half in (accused[:middle], accused[middle:]) if half]
        return accused

    def put_back(self, jobs: Iterable[str]) -> list[str]:
        """These of the running jobs were stopped through no fault of theirs. Returns those to be started again."""
        stopped = self._stop(jobs)
        self._waiting |= dict.fromkeys(job for job in stopped if job not in self._turn)
        return stopped

    def _begin_turn(self) -> None:
        others = self._others_next and bool(self._waiting)
        self._turn = list(self._waiting) if others else self._line.popleft()
        self._others_next = not others

    def _stop(self, jobs: Iterable[str]) -> list[str]:
        wanted = set(jobs)
        stopped = [job for job in self._running if job in wanted]
        for job in stopped:
            del self._running[job]
        return stopped

    def _keep(self, condition: Callable[[str], bool]) -> None:
        """Keeps those in line, and in the turn, that fulfil it."""
        self._turn = list(filter(condition, self._turn))
        kept = (list(filter(condition, group)) for group in self._line)
        self._line = deque(group for group in kept if group)
