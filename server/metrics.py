"""What Prometheus reads: the queue's depth and the workers' counters, taken from Redis when it asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import Redis

from contracts import keys
from contracts.announcements import BOUNDS, Announcement, Histogram, HistogramName, ServedModel, read_announcements
from contracts.bundle import DEFAULT_VARIANT, Task
from contracts.jobs import JobQueue
from contracts.requests import PRIORITIES, Target
from contracts.shadows import Comparison, Shadows
from contracts.store import Store

_TARGET = ("model", "version", "variant")
_ENGINE = ("worker", *_TARGET)
_UNITS: dict[Task, tuple[str, str]] = {
    "text": ("kamishibai_generated_tokens", "Tokens written."),
    "image": ("kamishibai_generated_pictures", "Pictures drawn."),
    "classify": ("kamishibai_classified_texts", "Texts classified."),
}
_HISTOGRAMS: dict[HistogramName, tuple[str, str]] = {
    "batch_size": ("kamishibai_batch_size", "Rows, pictures or texts that a call of an engine ran together."),
    "call_seconds": ("kamishibai_engine_call_seconds", "Time of a call of an engine."),
    "queue_seconds": ("kamishibai_queue_wait_seconds", "From a job's being put on its queue to its being claimed."),
    "first_token_seconds": (
        "kamishibai_time_to_first_token_seconds",
        "From a job's being put on its queue to its first token.",
    ),
    "between_tokens_seconds": ("kamishibai_time_between_tokens_seconds", "Between two tokens of a text."),
}


class QueueCollector(Collector):
    """Collecting raises redis.RedisError when Redis does not answer."""

    def __init__(self, connection: Redis, jobs: JobQueue, store: Store) -> None:
        self._redis = connection
        self._jobs = jobs
        self._store = store
        self._shadows = Shadows(connection)

    def collect(self) -> Iterator[Metric]:
        announcements = read_announcements(self._redis)
        yield self._queue_depth(announcements)
        yield from _workers(announcements)
        yield from _engines(announcements)
        yield from self._clerks()
        yield from _shadows(self._shadows.comparisons())

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
        queues = [(target, priority) for target in ordered for priority in PRIORITIES]
        depths = self._jobs.depth([target.queue(priority) for target, priority in queues])
        family = GaugeMetricFamily(
            "kamishibai_queue_depth", "Jobs that wait for a worker.", labels=(*_TARGET, "priority")
        )
        for (target, priority), depth in zip(queues, depths, strict=True):
            family.add_metric((*_labels(target), priority), depth)
        return family

    def _clerks(self) -> Iterator[Metric]:
        counts = cast(dict[bytes, bytes], self._redis.hgetall(keys.WEBHOOK_COUNTS))
        webhooks = CounterMetricFamily("kamishibai_webhooks", "Webhooks, by what became of them.", labels=("outcome",))
        for outcome in ("delivered", "failed", "dropped"):
            webhooks.add_metric((outcome,), int(counts.get(outcome.encode(), 0)))
        yield webhooks
        waiting, batches = self._redis.zcard(keys.WEBHOOKS), self._redis.zcard(keys.OPEN_BATCHES)
        yield GaugeMetricFamily("kamishibai_webhooks_waiting", "Webhooks that are still to be sent.", value=waiting)
        yield GaugeMetricFamily("kamishibai_open_batches", "Batches that have not ended.", value=batches)


def _shadows(comparisons: Iterator[Comparison]) -> Iterator[Metric]:
    """Of the comparisons that run."""
    requests = CounterMetricFamily(
        "kamishibai_shadow_requests",
        "Live requests that were also run on a candidate, by what became of them.",
        labels=("model", "outcome"),
    )
    divergence = GaugeMetricFamily(
        "kamishibai_shadow_divergence_nats", "Mean KL divergence of the candidate, by token.", labels=("model",)
    )
    seconds = GaugeMetricFamily(
        "kamishibai_shadow_seconds_per_unit",
        "Mean time by token, picture or text, of what was compared.",
        labels=("model", "side"),
    )
    for shadow, _, tally in comparisons:
        name = shadow.live.model
        outcomes = {
            "equal": tally.equal,
            "different": tally.compared - tally.equal,
            "dropped": tally.dropped,
            "live_failed": tally.live_failed,
            "candidate_failed": tally.candidate_failed,
        }
        for outcome, count in outcomes.items():
            requests.add_metric((name, outcome), count)
        if tally.kl_tokens:
            divergence.add_metric((name,), tally.kl / tally.kl_tokens)
        if tally.live_units and tally.candidate_units:
            seconds.add_metric((name, "live"), tally.live_run_seconds / tally.live_units)
            seconds.add_metric((name, "candidate"), tally.candidate_run_seconds / tally.candidate_units)
    yield from (requests, divergence, seconds)


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
    engines = [(each.worker, served) for each in announcements for served in each.models]
    yield _gauge("kamishibai_slots", "Requests or rows that an engine may run at once.", engines, "slots")
    yield _gauge("kamishibai_slots_used", "Those that it runs; for a GPT-2 they hold KV cache.", engines, "slots_used")
    yield _gauge("kamishibai_engine_waiting", "Requests that a worker holds for an engine.", engines, "waiting")
    prompt_tokens = CounterMetricFamily("kamishibai_prompt_tokens", "Tokens of prompts.", labels=_ENGINE)
    jobs = CounterMetricFamily("kamishibai_jobs", "Jobs ended, by outcome or error code.", labels=(*_ENGINE, "outcome"))
    units = {task: CounterMetricFamily(*described, labels=_ENGINE) for task, described in _UNITS.items()}
    for worker, served in engines:
        labels, counters = (worker, *_labels(served.target)), served.counters
        units[served.task].add_metric(labels, counters.units)
        if served.task == "text":
            prompt_tokens.add_metric(labels, counters.prompt_tokens)
        for outcome, count in sorted(counters.jobs.items()):
            jobs.add_metric((*labels, outcome), count)
    yield from (prompt_tokens, jobs, *units.values())
    yield from (_histogram(name, engines) for name in _HISTOGRAMS)


def _gauge(name: str, about: str, engines: list[tuple[str, ServedModel]], field: str) -> Metric:
    family = GaugeMetricFamily(name, about, labels=_ENGINE)
    for worker, served in engines:
        family.add_metric((worker, *_labels(served.target)), getattr(served.counters, field))
    return family


def _histogram(name: HistogramName, engines: list[tuple[str, ServedModel]]) -> Metric:
    family = HistogramMetricFamily(*_HISTOGRAMS[name], labels=_ENGINE)
    for worker, served in engines:
        if found := served.counters.histograms.get(name):
            family.add_metric((worker, *_labels(served.target)), _cumulative(found, BOUNDS[name]), found.sum)
    return family


def _cumulative(histogram: Histogram, bounds: tuple[float, ...]) -> list[tuple[str, float]]:
    """Prometheus counts up to a bound, we count between bounds."""
    names = (*(str(float(bound)) for bound in bounds), "+Inf")
    return [(name, float(sum(histogram.counts[: i + 1]))) for i, name in enumerate(names)]


def _labels(target: Target) -> tuple[str, str, str]:
    return target.model, str(target.version), target.variant
