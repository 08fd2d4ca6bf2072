"""What one model has done on this worker, counted for the metrics: its engine's calls, and the times of its jobs."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from typing import Any

from contracts.announcements import BOUNDS, EngineCounters, Histogram, HistogramName
from contracts.requests import TextRequest
from workers.drain import Drain
from workers.flight import Flight
from workers.leases import Ending


class Observations:
    """A histogram that grows. A value is counted under the smallest bound that it does not exceed."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def histogram(self) -> Histogram:
        return Histogram(counts=tuple(self._counts), sum=self._sum)


class EngineTally:
    """Counts on while engine children come and go; `counters` is what is announced of it."""

    def __init__(self) -> None:
        self._units = self._prompt_tokens = 0
        self._jobs: Counter[str] = Counter()  # by outcome or error code
        self._slots_used = self._waiting = 0
        self._drain = Drain()
        self._observed: dict[HistogramName, Observations] = {name: Observations(BOUNDS[name]) for name in BOUNDS}

    def count_call(self, call: dict[str, Any]) -> None:
        """A call of the engine, as its child reports it."""
        self._units += call["units"]
        self._drain.call(time.monotonic(), call["seconds"])
        self._observed["batch_size"].add(call["batch_size"])
        self._observed["call_seconds"].add(call["seconds"])
        self._slots_used, self._waiting = call["running"], call["waiting"]

    def count_start(self, flight: Flight) -> None:
        """A job was claimed. How long it waited is known of its first run only."""
        if flight.lease.waited_seconds is not None:
            self._observed["queue_seconds"].add(flight.lease.waited_seconds)
        if isinstance(flight.request, TextRequest):
            self._prompt_tokens += len(flight.request.prompt_tokens)

    def count_tokens(self, flight: Flight, choice: int, tokens: int) -> None:
        """So many tokens of a text came just now."""
        pace = flight.pace.take(choice, tokens)
        if pace.first_token_seconds is not None:
            self._observed["first_token_seconds"].add(pace.first_token_seconds)
        if pace.token_seconds is not None:
            self._observed["between_tokens_seconds"].add(pace.token_seconds, tokens)

    def count_end(self, ending: Ending) -> None:
        """A job has ended."""
        self._jobs[ending.label] += 1
        if ending.outcome == "finished":
            self._drain.ended(ending.lease.work, time.monotonic() - ending.lease.claimed_at)

    def counters(self, slots: int, *, idle: bool) -> EngineCounters:
        """`slots` is what the engine may run at once. `idle` says that it has no jobs: its last report may still name
        those that were taken from it."""
        return EngineCounters(
            units=self._units,
            prompt_tokens=self._prompt_tokens,
            jobs=dict(self._jobs),
            histograms={name: observed.histogram() for name, observed in self._observed.items()},
            slots=slots,
            slots_used=0 if idle else self._slots_used,
            waiting=0 if idle else self._waiting,
            work_per_second=self._drain.work_per_second,
            seconds_per_work=self._drain.seconds_per_work,
        )
