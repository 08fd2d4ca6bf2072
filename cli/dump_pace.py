"""How many jobs a dump has on a server at once."""

from __future__ import annotations

import time

from contracts.requests import MAX_BULK


class Pace:
    """As many as one call makes; once the server has refused some, as many as it took, and a little more each time
    that it takes all."""

    def __init__(self) -> None:
        self._most = MAX_BULK
        self._not_before = 0.0  # monotonic seconds

    def due(self, running: int) -> bool:
        """Whether to send more: not one by one, but when half of them have ended."""
        return running <= self._most // 2 and time.monotonic() >= self._not_before

    def room(self, running: int) -> int:
        return self._most - running

    def slow_down(self, running: int, seconds: float) -> None:
        """The server took no more than these, and nothing for so long."""
        self._most = max(1, running)
        self._not_before = time.monotonic() + seconds

    def speed_up(self) -> None:
        """The server took all."""
        self._most = min(MAX_BULK, self._most + 1 + self._most // 8)

    def wait(self) -> None:
        """Until something may be sent."""
        time.sleep(max(0.0, self._not_before - time.monotonic()))
