"""How long the engine child has been silent while it should have said something."""

from __future__ import annotations

LONGEST_LOOK_SECONDS = 2.0


class Silence:
    """Counts only while we are looking: when this process was itself stopped, or waited for Redis, or the whole machine
    slept, the child had no chance to be heard, and a single look counts LONGEST_LOOK_SECONDS at most."""

    def __init__(self, now: float) -> None:
        self._looked_at = now
        self._seconds = 0.0

    def broken(self, now: float) -> None:
        """It has said something, or has nothing to say."""
        self._looked_at, self._seconds = now, 0.0

    def look(self, now: float) -> float:
        """Seconds of silence so far."""
        self._seconds += min(now - self._looked_at, LONGEST_LOOK_SECONDS)
        self._looked_at = now
        return self._seconds
