"""Things that a worker does every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable


class Chore:
    """Something to do every few seconds; the first time at once. `due` is when, on the monotonic clock."""

    def __init__(self, every_seconds: float, do: Callable[[], None]) -> None:
        self._every_seconds = every_seconds
        self._do = do
        self.due = 0.0

    def within(self, seconds: float) -> None:
        """Do it no later than that."""
        self.due = min(self.due, time.monotonic() + seconds)

    def postpone(self, seconds: float) -> None:
        """Do it no sooner than that."""
        self.due = max(self.due, time.monotonic() + seconds)

    def do_if_due(self) -> None:
        """What fails is due again at once."""
        if time.monotonic() >= self.due:
            self._do()
            self.due = time.monotonic() + self._every_seconds
