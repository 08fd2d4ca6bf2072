"""The limits, as pure functions over a run's samples. Each yields what breaks it; a run passes when none yields."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from tests.chaos.checker import is_left_over
from tests.soak.limits import BYTES_OF_JOB, KEYS_OF_JOB, LIMITS, LOG_BYTES_PER_THOUSAND_REQUESTS
from tests.soak.product import ROLES
from tests.soak.samples import JobRecord, Phase, Sample

WARM_UP_SHARE = 0.25  # of the load, in which caches, pools and heaps take their size
FEWEST_SAMPLES = 12  # of the load after that, before there is a trend

Findings = Iterator[str]
Points = Sequence[tuple[float, float]]  # seconds, value


@dataclass(frozen=True)
class Violation:
    rule: str
    said: str


class Run:
    """Samples, sorted for the rules. Raises ValueError for a run without a beginning and an end."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        by_phase: dict[Phase, list[Sample]] = {"start": [], "load": [], "rest": []}
        for sample in samples:
            by_phase[sample.phase].append(sample)
        if not by_phase["start"] or not by_phase["rest"]:
            raise ValueError("a run has samples from before its load and from after it")
        self.samples = samples
        self.start, self.rest = by_phase["start"][0], by_phase["rest"][-1]
        self.load = by_phase["load"]
        self.steady = self.load[int(len(self.load) * WARM_UP_SHARE) :]

    def growth(self, gauge: str) -> float:
        """How much more there is at the end of the load than after the warm-up, by the trend between."""
        return trend([(sample.at, sample.gauges.get(gauge, 0)) for sample in self.steady])

    def most(self, gauge: str) -> int:
        return max(sample.gauges.get(gauge, 0) for sample in self.samples)

    def above_start(self, gauge: str) -> int:
        return self.rest.gauges.get(gauge, 0) - self.start.gauges.get(gauge, 0)

    def jobs(self, *, ended: bool) -> list[JobRecord]:
        return [job for sample in self.samples for job in sample.jobs if job.ended is ended]

    def log_bytes_per_thousand_requests(self) -> float:
        return self.above_start("log") / max(1, self.rest.requests) * 1000


def trend(points: Points) -> float:
    """What the points rise by from the first to the last: Theil and Sen's slope (the median of those of all pairs, on
    which no single outlier has a hold) times the time between.
    """
    slopes = [(b - a) / (later - sooner) for (sooner, a), (later, b) in combinations(points, 2) if later > sooner]
    return statistics.median(slopes) * (points[-1][0] - points[0][0]) if slopes else 0.0


def judge(samples: Sequence[Sample]) -> list[Violation]:
    run = Run(samples)
    return [Violation(rule.__name__, said) for rule in RULES for said in rule(run)]


def nothing_exceeds_its_limit(run: Run) -> Findings:
    for gauge, limit in LIMITS.items():
        if (most := run.most(gauge)) > limit.most:
            yield f"{gauge} was {most}; at most {limit.most}"


def nothing_grows_after_the_warm_up(run: Run) -> Findings:
    for gauge, limit in LIMITS.items():
        if limit.growth is not None and (growth := run.growth(gauge)) > limit.growth:
            yield f"{gauge} grew by {growth:.0f} over {len(run.steady)} samples; at most {limit.growth}"


def everything_comes_back_at_rest(run: Run) -> Findings:
    for gauge, limit in LIMITS.items():
        if limit.at_rest is not None and (above := run.above_start(gauge)) > limit.at_rest:
            yield f"{gauge} is {above} above what it was before the first request; at most {limit.at_rest}"


def nothing_outlives_its_lifetime_in_redis(run: Run) -> Findings:
    for key in run.rest.keys:
        if is_left_over(key.name, key.seconds_left, key.entries):
            yield f"{key}"


def jobs_take_little_of_redis(run: Run) -> Findings:
    jobs = run.jobs(ended=False) + run.jobs(ended=True)
    if (most := max((job.keys for job in jobs), default=0)) > KEYS_OF_JOB:
        yield f"a job had {most} keys; at most {KEYS_OF_JOB}"
    if (most := max((job.bytes for job in jobs), default=0)) > BYTES_OF_JOB:
        yield f"a job took {most} bytes without its pictures; at most {BYTES_OF_JOB}"


def logs_grow_slowly(run: Run) -> Findings:
    if (wrote := run.log_bytes_per_thousand_requests()) > LOG_BYTES_PER_THOUSAND_REQUESTS:
        yield f"{wrote:.0f} bytes of log per 1,000 requests; at most {LOG_BYTES_PER_THOUSAND_REQUESTS}"


def processes_stay_up(run: Run) -> Findings:
    for sample in run.samples:
        if sample.processes != run.start.processes:
            yield f"{run.start.processes} were {sample.processes} at {sample.at} s"


def enough_was_seen(run: Run) -> Findings:
    """Without this a run in which nothing happened, or nothing was measured, would pass."""
    if len(run.steady) < FEWEST_SAMPLES:
        yield f"{len(run.steady)} samples of the load; at least {FEWEST_SAMPLES} for a trend"
    if missing := sorted(set(ROLES) - set(run.start.processes)):
        yield f"no process was seen for {', '.join(missing)}"
    if missing := [gauge for gauge in LIMITS if any(gauge not in sample.gauges for sample in run.samples)]:
        yield f"not measured each time: {', '.join(missing)}"
    if not run.jobs(ended=True) or not run.jobs(ended=False):
        yield "no record of a running job or none of an ended one was seen"


RULES: tuple[Callable[[Run], Findings], ...] = (
    nothing_exceeds_its_limit,
    nothing_grows_after_the_warm_up,
    everything_comes_back_at_rest,
    nothing_outlives_its_lifetime_in_redis,
    jobs_take_little_of_redis,
    logs_grow_slowly,
    processes_stay_up,
    enough_was_seen,
)
