"""What a server counts of its requests."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector

from server.shared_folder import Place

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class RequestCounters:
    """With a place, what all processes of the server have counted is read; without one, this process is alone."""

    def __init__(self, registry: CollectorRegistry, place: Place | None = None) -> None:
        if place is not None:
            _count_in(place)
            MultiProcessCollector(registry, path=str(place.folder))  # type: ignore[no-untyped-call]
        own = registry if place is None else None
        self._requests = Counter(
            "kamishibai_http_requests",
            "Requests that were answered. The code is the error's, also of one that broke a stream of status 200.",
            ("method", "route", "status", "code"),
            registry=own,
        )
        self._seconds = Histogram(
            "kamishibai_http_request_seconds",
            "Time to the last byte of the answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=own,
        )
        waiting = Gauge(
            "kamishibai_waiting_clients",
            "Clients that wait for a job's answer, or whose stream is open.",
            ("kind",),
            multiprocess_mode="livesum",
            registry=own,
        )
        self._cached = Counter(
            "kamishibai_result_cache",
            "Requests of calls that could be answered from the result cache, by whether they were.",
            ("outcome",),
            registry=own,
        )
        self.cached_bytes = Gauge(
            "kamishibai_result_cache_bytes",
            "Memory that the result caches take.",
            multiprocess_mode="livesum",
            registry=own,
        )
        self.waiting_answers, self.open_streams = waiting.labels("answer"), waiting.labels("stream")

    def count_cached(self, *, hit: bool) -> None:
        """The result cache was asked."""
        self._cached.labels("hit" if hit else "miss").inc()

    def count(self, method: str, route: str, status: int, code: str, seconds: float) -> None:
        """A request has been answered. `route` is a rule; `code` is empty if all went well."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status), code).inc()
        self._seconds.labels(method, route).observe(seconds)


def _count_in(place: Place) -> None:
    """From now on every value of this process is kept in its files there."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(place.folder)
    values.ValueClass = values.MultiProcessValue(lambda: place.number)  # type: ignore[no-untyped-call]
