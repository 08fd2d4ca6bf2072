"""How many jobs a dump has on a server at once."""

from __future__ import annotations

import time

from contracts.requests import MAX_BULK


class Pace:
    """How many jobs to have at once: as many as one call makes, and once the server has refused some, as many as it
    took, until it takes all of a larger number again."""

    def __init__(self) -> None:
        self._most = MAX_BULK
        self._not_before = 0.0  # monotonic seconds

    def due(self, running: int) -> bool:
        """Whether to send more: not one by one, but when half of them have ended."""
        return running <= self._most // 2 and time.monotonic() >= self._not_before

    def room(self, running: int) -> int:
        return self._most - running

    def slow_down(self, running: int, seconds: float) -> None:
        """The server took no more than these, and says when to come back."""
        self._most = max(1, running)
        self._not_before = time.monotonic() + seconds

    def speed_up(self) -> None:
        """The server took all."""
        self._most = min(MAX_BULK, 2 * self._most)

    def wait(self) -> None:
        """Until something may be sent."""
        time.sleep(max(0.0, self._not_before - time.monotonic()))
