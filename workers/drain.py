"""How fast one model's queue drains, in the work that its jobs asked for: what estimates are made of.

Jobs may end before they have done all that they asked for (a stop string, an end token). Counting what ended jobs had
asked for, not what was made, puts this into the rate.
"""

from __future__ import annotations

import math

IDLE_SECONDS = 0.25  # between two calls of an engine that has work there are the calls of others, but no such gap
MEMORY_SECONDS = 60.0  # of work; then the older half of what was seen counts half


class Drain:
    def __init__(self) -> None:
        self._called_at = -math.inf  # on the clock of the caller
        self._busy_seconds = 0.0
        self._work = 0.0  # of jobs that ended in this time
        self._run_seconds = 0.0  # of those jobs, each from its claim to its end

    def call(self, now: float, seconds: float) -> None:
        """A call of the engine ended at `now`, a monotonic time, and took so many seconds."""
        gap = now - self._called_at
        self._busy_seconds += gap if gap < IDLE_SECONDS else seconds
        self._called_at = now
        if self._busy_seconds > MEMORY_SECONDS:
            self._busy_seconds, self._work, self._run_seconds = (
                each / 2 for each in (self._busy_seconds, self._work, self._run_seconds)
            )

    def ended(self, work: int, run_seconds: float) -> None:
        """A job that had asked for so much work ended well."""
        self._work += work
        self._run_seconds += run_seconds

    @property
    def work_per_second(self) -> float | None:
        """Of all jobs together; None until one has ended."""
        return self._work / self._busy_seconds if self._work and self._busy_seconds else None

    @property
    def seconds_per_work(self) -> float | None:
        """Of one job in the company of others; None until one has ended."""
        return self._run_seconds / self._work if self._work else None
