"""Each rule of the judge finds its leak: runs made by hand, with one bad thing in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from tests.soak.judge import FEWEST_SAMPLES, RULES, judge, trend
from tests.soak.limits import BYTES_OF_JOB, KEYS_OF_JOB, LIMITS, LOG_BYTES_PER_THOUSAND_REQUESTS, MIB
from tests.soak.product import ROLES
from tests.soak.report import report
from tests.soak.samples import JobRecord, Key, Phase, Sample

BOOKS = (Key("rq:workers", -1, 0), Key("kamishibai:worker:w", 12, 0), Key("kamishibai:bell:q", 3000, 0))
JOBS = (JobRecord(ended=True, keys=2, bytes=2000), JobRecord(ended=False, keys=3, bytes=1500))
LAST = 41  # of the samples under load
Change = Callable[[Sample, int], Sample]


def steady(seconds_between: float = 5.0) -> list[Sample]:
    """A good run: every gauge at a third of its limit, give or take; heaps take their size while it warms up."""
    rng = Random(0)
    level = {gauge: limit.most // 3 for gauge, limit in LIMITS.items()} | {"redis keys": 500, "log": 700}

    def sample(number: int, phase: Phase) -> Sample:
        grown = {gauge: MIB * min(number, 10) for gauge in level if gauge.endswith("memory")}
        noise = {gauge: int(value * rng.uniform(-0.01, 0.01)) for gauge, value in level.items() if gauge != "log"}
        gauges = {gauge: value + grown.get(gauge, 0) + noise.get(gauge, 0) for gauge, value in level.items()}
        at, processes = number * seconds_between, {role: 100 + i for i, role in enumerate(ROLES)}
        return Sample(at, phase, 100 * number, gauges, processes, JOBS, BOOKS if phase == "rest" else ())

    load = [sample(number, "load") for number in range(1, LAST + 1)]
    return [sample(0, "start"), *load, sample(LAST + 10, "rest")]


def changed(change: Change) -> list[Sample]:
    return [change(sample, number) for number, sample in enumerate(steady())]


def leaking(gauge: str, each: float) -> Change:
    """`each` more in every sample."""
    return lambda sample, number: with_gauge(sample, gauge, sample.gauges[gauge] + round(each * number))


def with_gauge(sample: Sample, gauge: str, value: int) -> Sample:
    return replace(sample, gauges=sample.gauges | {gauge: value})


def once_above(gauge: str) -> Change:
    return lambda sample, number: with_gauge(sample, gauge, LIMITS[gauge].most + (number == 20))


def at_rest(change: Callable[[Sample], Sample]) -> Change:
    return lambda sample, number: change(sample) if sample.phase == "rest" else sample


def with_key(name: str, seconds_left: int, entries: int = 0) -> Change:
    return at_rest(lambda sample: replace(sample, keys=(*BOOKS, Key(name, seconds_left, entries))))


def with_jobs(*jobs: JobRecord) -> Change:
    return lambda sample, number: replace(sample, jobs=jobs)


def above_rest(gauge: str, more: int) -> Change:
    return at_rest(lambda sample: with_gauge(sample, gauge, steady()[0].gauges[gauge] + more))


GROWING = [(gauge, limit.growth) for gauge, limit in LIMITS.items() if limit.growth is not None]
RETURNING = [(gauge, limit.at_rest) for gauge, limit in LIMITS.items() if limit.at_rest is not None]
BAD: dict[str, list[Change]] = {
    "nothing_exceeds_its_limit": [once_above(gauge) for gauge in LIMITS],
    "nothing_grows_after_the_warm_up": [leaking(gauge, (growth + 1) / 20) for gauge, growth in GROWING],
    "everything_comes_back_at_rest": [above_rest(gauge, most + 1) for gauge, most in RETURNING],
    "nothing_outlives_its_lifetime_in_redis": [
        with_key("rq:job:x", 3),
        with_key("rq:results:x", 3),
        with_key("kamishibai:text:x:0", 86000),
        with_key("kamishibai:pictures:x:y", 500),
        with_key("rq:canceled:q", -1, entries=1),
        with_key("rq:finished:q", -1, entries=2),
        with_key("something:else", -1),
    ],
    "jobs_take_little_of_redis": [
        with_jobs(*JOBS, replace(JOBS[0], keys=KEYS_OF_JOB + 1)),
        with_jobs(*JOBS, replace(JOBS[1], bytes=BYTES_OF_JOB + 1)),
    ],
    "logs_grow_slowly": [
        lambda sample, number: with_gauge(sample, "log", sample.requests * 2 * LOG_BYTES_PER_THOUSAND_REQUESTS // 1000)
    ],
    "processes_stay_up": [
        lambda sample, number: replace(sample, processes=sample.processes | {"engine": 900}) if number > 20 else sample,
        lambda sample, number: replace(sample, processes={}) if number == 20 else sample,
    ],
    "enough_was_seen": [
        with_jobs(),
        with_jobs(JOBS[0]),
        with_jobs(JOBS[1]),
        lambda sample, number: replace(sample, processes={"redis": 1}),
        lambda sample, number: replace(sample, gauges={"log": 1, "redis keys": 1}),
    ],
}


def test_a_steady_run_passes():
    assert judge(steady()) == []


@pytest.mark.parametrize(("rule", "number"), [(rule, number) for rule in BAD for number in range(len(BAD[rule]))])
def test_a_leak_is_found_by_its_rule(rule, number):
    assert rule in {violation.rule for violation in judge(changed(BAD[rule][number]))}


def test_every_rule_is_shown_to_fail():
    assert [rule.__name__ for rule in RULES] == list(BAD)


def test_a_leak_that_a_short_run_hides_is_found_in_a_long_one():
    growth = LIMITS["server memory"].growth
    assert growth is not None
    slow = leaking("server memory", growth / 50)
    assert judge(changed(slow)) == []
    thrice = [sample for part in range(3) for sample in (replace(s, at=s.at + 205 * part) for s in steady()[1:-1])]
    long = [steady()[0], *thrice, replace(steady()[-1], at=900)]
    found = judge([slow(sample, number) for number, sample in enumerate(long)])
    assert {violation.rule for violation in found} == {"nothing_grows_after_the_warm_up"}


def test_what_comes_and_goes_is_no_growth():
    def saw(sample, number):
        return with_gauge(sample, "server memory", 40 * MIB + number % 7 * 4 * MIB)

    assert judge(changed(saw)) == []


def test_a_run_that_is_too_short_for_a_trend_does_not_pass():
    few = steady()
    assert "enough_was_seen" in {violation.rule for violation in judge([few[0], *few[1:FEWEST_SAMPLES], few[-1]])}


@pytest.mark.parametrize("missing", ["start", "rest"])
def test_a_run_without_beginning_or_end_is_refused(missing):
    with pytest.raises(ValueError, match="before its load and from after"):
        judge([sample for sample in steady() if sample.phase != missing])


@pytest.mark.parametrize(("points", "rise"), [([], 0), ([(1, 5)], 0), ([(0, 1), (1, 2), (4, 5)], 4), ([(2, 7)] * 3, 0)])
def test_a_trend_is_the_rise_of_a_straight_line(points, rise):
    assert trend(points) == rise


def test_a_trend_does_not_follow_an_outlier():
    points = [(float(at), float(at)) for at in range(20)]
    points[-1] = (19.0, 1e9)
    assert trend(points) == pytest.approx(19.0)


def test_a_report_shows_every_gauge_and_violation():
    leak = changed(BAD["nothing_grows_after_the_warm_up"][0])
    text = report(leak, judge(leak))
    assert [gauge for gauge in LIMITS if f"| {gauge} |" not in text] == []
    assert "violations: 1\n- nothing_grows_after_the_warm_up: supervisor memory grew by" in text
