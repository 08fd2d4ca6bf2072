"""What Prometheus reads: the queue's depth and the workers' counters, taken from Redis when it asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import Redis

from contracts.announcements import BATCH_SIZE_BOUNDS, Announcement, EngineCounters, read_announcements
from contracts.bundle import DEFAULT_VARIANT
from contracts.jobs import JobQueue
from contracts.requests import Target
from contracts.store import Store

_TARGET = ("model", "version", "variant")
_ENGINE = ("worker", *_TARGET)
_BOUNDS = (*(str(float(bound)) for bound in BATCH_SIZE_BOUNDS), "+Inf")


class QueueCollector(Collector):
    """Collecting raises redis.RedisError when Redis does not answer."""

    def __init__(self, connection: Redis, jobs: JobQueue, store: Store) -> None:
        self._redis = connection
        self._jobs = jobs
        self._store = store

    def collect(self) -> Iterator[Metric]:
        announcements = read_announcements(self._redis)
        yield self._queue_depth(announcements)
        yield from _workers(announcements)
        yield from _engines(announcements)

    def describe(self) -> list[Metric]:
        return []  # registering asks for names, and without this it would ask Redis

    def _queue_depth(self, announcements: list[Announcement]) -> Metric:
        # The store's models are counted too: a queue matters most when the last of its workers has gone.
        targets = {served.target for each in announcements for served in each.models}
        targets |= {
            Target(model=name, version=version, variant=DEFAULT_VARIANT)
            for name in self._store.names()
            for version in self._store.versions(name)
        }
        ordered = sorted(targets, key=_labels)
        family = GaugeMetricFamily("kamishibai_queue_depth", "Jobs that wait for a worker.", labels=_TARGET)
        for target, depth in zip(ordered, self._jobs.depth([each.queue_name for each in ordered]), strict=True):
            family.add_metric(_labels(target), depth)
        return family


def _workers(announcements: list[Announcement]) -> Iterator[Metric]:
    ready = sum(each.ready for each in announcements)
    yield GaugeMetricFamily("kamishibai_workers_ready", "Workers that take jobs right now.", value=ready)
    restarts = CounterMetricFamily(
        "kamishibai_child_restarts", "Engine processes that a worker had to start again.", labels=("worker",)
    )
    for each in announcements:
        restarts.add_metric((each.worker,), each.child_restarts)
    yield restarts


def _engines(announcements: list[Announcement]) -> Iterator[Metric]:
    calls = CounterMetricFamily("kamishibai_engine_calls", "Calls of an engine.", labels=_ENGINE)
    seconds = CounterMetricFamily("kamishibai_engine_call_seconds", "Time in calls of an engine.", labels=_ENGINE)
    units = CounterMetricFamily("kamishibai_units", "Tokens or pictures made, texts classified.", labels=_ENGINE)
    running = GaugeMetricFamily("kamishibai_running", "Requests in an engine.", labels=_ENGINE)
    waiting = GaugeMetricFamily("kamishibai_waiting", "Requests a worker holds for an engine.", labels=_ENGINE)
    batch_size = HistogramMetricFamily(
        "kamishibai_batch_size", "Rows, pictures or texts per call; the sum is the units.", labels=_ENGINE
    )
    for each in announcements:
        for served in each.models:
            labels, counters = (each.worker, *_labels(served.target)), served.counters
            calls.add_metric(labels, counters.calls)
            seconds.add_metric(labels, counters.call_seconds)
            units.add_metric(labels, counters.units)
            running.add_metric(labels, counters.running)
            waiting.add_metric(labels, counters.waiting)
            batch_size.add_metric(labels, _cumulative(counters), counters.units)
    yield from (calls, seconds, units, running, waiting, batch_size)


def _cumulative(counters: EngineCounters) -> list[tuple[str, float]]:
    """Prometheus counts calls up to a bound, we count them between bounds."""
    return [(bound, float(sum(counters.batch_sizes[: i + 1]))) for i, bound in enumerate(_BOUNDS)]


def _labels(target: Target) -> tuple[str, str, str]:
    return target.model, str(target.version), target.variant
