"""The jobs of one worker that have not ended: which of them its engine child has now, and which start again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from workers.flight import Flight
from workers.leases import Lease
from workers.suspects import Suspects


class Flights:
    """In order of arrival, by execution id, which no other run of a job shares."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}
        self._suspects = Suspects()

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._flights.values()))  # whoever looks at them may remove some

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def leases(self) -> list[Lease]:
        return [flight.lease for flight in self]

    @property
    def running(self) -> bool:
        """Whether the child has work."""
        return bool(self._suspects.running)

    @property
    def open(self) -> bool:
        """Whether somebody new may be let in."""
        return self._suspects.open

    def by_engine(self) -> Counter[str]:
        return Counter(flight.lease.engine for flight in self)

    def find(self, execution_id: str) -> Flight | None:
        return self._flights.get(execution_id)

    def add(self, flight: Flight) -> None:
        self._flights[flight.lease.execution_id] = flight
        self._suspects.enter(flight.lease.execution_id)

    def remove(self, execution_id: str) -> Flight | None:
        """None if it is not here."""
        self._suspects.leave(execution_id)
        return self._flights.pop(execution_id, None)

    def start(self) -> list[Flight]:
        """Those that the child is to be given now."""
        return [self._flights[execution_id] for execution_id in self._suspects.start()]

    def after_death(self) -> list[tuple[Flight, int]]:
        """The child has died with all that it had. Returns them, with the number of deaths that each has seen alone."""
        accused = self._again(self._suspects.accuse(list(self._suspects.running)))
        return [(flight, self._suspects.deaths_alone(flight.lease.execution_id)) for flight in accused]

    def after_failure(self, engine: str, took_part: Iterable[str]) -> list[Flight]:
        """The child has given up all of one engine after a call that failed. Returns those that took part in it."""
        given_up = [each for each in self._suspects.running if self._flights[each].lease.engine == engine]
        accused = self._again(self._suspects.accuse(took_part))
        self._again(self._suspects.put_back(given_up))
        return accused

    def after_eviction(self, execution_id: str) -> None:
        """The child had no room for it."""
        self._again(self._suspects.put_back([execution_id]))

    def _again(self, execution_ids: list[str]) -> list[Flight]:
        flights = [self._flights[execution_id] for execution_id in execution_ids]
        for flight in flights:
            flight.restart()
            flight.pace.restart()
        return flights
