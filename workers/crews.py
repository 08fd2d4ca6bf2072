"""The crews of a worker: one serves, another may be coming to take its place, and those that were replaced leave.

A change of models never stalls the work: the crew that comes loads and warms up in a child of its own while the other
one serves. What that one was running, and what is still queued for versions that only it has, ends there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from contracts.bundle import Bundle
from contracts.requests import Target
from workers.crew import Crew
from workers.flight import Flight

log = logging.getLogger("kamishibai.worker")

LINGER_SECONDS = 10.0  # servers send jobs for the old version for a second or two after the new one is announced
MOST_FAILED_STARTS = 3
RETRY_SECONDS = 60.0  # after a crew could not take over

Wanted = dict[Target, Bundle]


class Crews:
    """`make_crew(wanted)` is a crew that has not begun; `refuse(targets)` is told of what could not be loaded."""

    def __init__(
        self, wanted: Wanted, make_crew: Callable[[Wanted], Crew], refuse: Callable[[frozenset[Target]], None]
    ) -> None:
        self._wanted = wanted
        self._make_crew = make_crew
        self._refuse = refuse
        self.serving = make_crew(wanted)
        self._refused: frozenset[Target] = frozenset()  # by the serving crew, as was told
        self._coming: Crew | None = None
        self._leaving: dict[Crew, float] = {}  # with the monotonic time at which it last had work
        self._next_start = 0.0
        self._reloads = self._reloads_served = self._reloads_coming = 0

    def __iter__(self) -> Iterator[Crew]:
        """Those that may have jobs; the one that serves comes first."""
        return iter([self.serving, *self._leaving])

    @property
    def with_children(self) -> list[Crew]:
        """All of them."""
        return [*self, *([self._coming] if self._coming else [])]

    @property
    def flights(self) -> list[Flight]:
        return [flight for crew in self for flight in crew.flights]

    @property
    def child_restarts(self) -> int:
        return sum(crew.child_restarts for crew in self)

    def free_places(self) -> dict[str, int]:
        """By engine; those of a leaving crew only for what the serving one has not."""
        free: dict[str, int] = {}
        for crew in reversed(list(self)):
            free |= crew.free_places()
        return free

    def of_engine(self, engine: str) -> Crew:
        """The crew that jobs for this engine are claimed for."""
        return next(crew for crew in self if engine in crew.served.capacities)

    def want(self, wanted: Wanted, reloads: int = 0) -> None:
        """Serve exactly these from as soon as they are loaded; load them anew if `reloads` has grown."""
        self._wanted, self._reloads, self._next_start = wanted, reloads, 0.0

    def change(self) -> bool:
        """A step towards what is wanted. Returns whether another crew serves now."""
        self._tell_refusals()
        self._let_go()
        coming = self._coming
        if coming is None:
            self._call_for_another()
        elif coming.targets != self._wanted.keys() or self._reloads_coming != self._reloads:
            coming.stop()
            self._coming = None
        elif coming.ready and not coming.served.refused:
            self._leaving[self.serving] = time.monotonic()
            self.serving, self._coming, self._reloads_served = coming, None, self._reloads_coming
            return True
        elif coming.ready or coming.child_restarts >= MOST_FAILED_STARTS:
            self._turn_away(coming)
        return False

    def stop(self) -> None:
        """End all children now."""
        for crew in self.with_children:
            crew.stop()

    def _tell_refusals(self) -> None:
        refused = self.serving.served.refused
        if refused != self._refused:
            self._refused = refused
            self._refuse(refused)

    def _call_for_another(self) -> None:
        served = self.serving.targets == self._wanted.keys() and self._reloads_served == self._reloads
        if served or time.monotonic() < self._next_start:
            return
        names = sorted(target.engine for target in self._wanted)
        log.info("loading %s beside what is served", ", ".join(names) or "no model")
        self._coming, self._reloads_coming = self._make_crew(self._wanted), self._reloads

    def _let_go(self) -> None:
        now = time.monotonic()
        for crew in list(self._leaving):
            if crew.flights:
                self._leaving[crew] = now
            elif now - self._leaving[crew] > LINGER_SECONDS:
                crew.stop()
                del self._leaving[crew]

    def _turn_away(self, coming: Crew) -> None:
        """It could not load everything: what it should have brought is refused, and the serving crew stays."""
        coming.stop()
        self._coming, self._reloads_served = None, self._reloads_coming
        self._next_start = time.monotonic() + RETRY_SECONDS
        new = coming.targets - self.serving.targets
        refused = (new & coming.served.refused) or new
        names = ", ".join(sorted(target.engine for target in refused)) or "the change of models"
        log.error("%s is given up; what was served before stays", names)
        self._refuse(refused)
