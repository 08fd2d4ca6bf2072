"""Arrivals, percentiles, goodput and series, each beside an oracle."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bench.arrivals import Arrivals
from cli.bench.calls import Call
from cli.bench.distribution import PERCENTS, Distribution
from cli.bench.objective import Objective
from cli.bench.outcome import Content, Fault, Outcome
from cli.bench.series import series
from contracts.errors import InvalidRequest

CALL = Call(0, "text", {})


def distribution(values):
    found = Distribution.of(values)
    assert found is not None
    return found


def outcome(due=0.0, ended=1.0, pieces=(), tokens=None, fault=None):
    content = Content(b"", tuple(pieces), output_tokens=tokens, counted="usage")
    return Outcome(CALL, due, due, ended, content, fault)


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_and_the_spread_that_were_asked_for_and_are_the_same_again(shape):
    def gaps(seed, run="a"):
        return list(islice(Arrivals(process="gamma", shape=shape).gaps(rate=20.0, seed=seed, run=run), 20_000))

    found = gaps(1)
    assert found == gaps(1)
    assert found[:5] != gaps(2)[:5]
    assert found[:5] != gaps(1, "b")[:5]
    assert np.mean(found) == pytest.approx(1 / 20, rel=0.05)
    assert np.std(found) == pytest.approx(1 / 20 / math.sqrt(shape), rel=0.06)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_percentiles_are_by_nearest_rank(values):
    found = distribution(values)
    for percent in PERCENTS:
        expected = np.percentile(values, percent, method="inverted_cdf")
        assert found.percentile(percent) == expected
        assert sum(value <= expected for value in values) >= len(values) * percent / 100
    assert (found.count, found.most) == (len(values), max(values))
    assert found.mean == pytest.approx(np.mean(values))


def test_a_percentile_is_sure_only_where_something_lies_beyond_it():
    assert Distribution.of([]) is None
    sure = {count: [p for p in PERCENTS if distribution([1.0] * count).is_sure(p)] for count in (1, 2, 10, 20, 99, 100)}
    assert sure == {1: [], 2: [50], 10: [50, 90], 20: [50, 90, 95], 99: [50, 90, 95], 100: [50, 90, 95, 99]}


def test_goodput_counts_what_is_within_every_bound_it_has():
    bounds = Objective.parse("ttft:0.5, tpot:0.1,e2e:2")
    fast = outcome(ended=1.5, pieces=[0.4, 1.4], tokens=11)
    assert bounds.is_met(fast)
    assert not bounds.is_met(outcome(ended=1.5, pieces=[0.6, 1.4], tokens=11))
    assert not bounds.is_met(outcome(ended=1.5, pieces=[0.4, 1.5], tokens=11))
    assert not bounds.is_met(outcome(ended=2.5, pieces=[0.4, 1.4], tokens=11))
    assert not bounds.is_met(outcome(ended=0.1, fault=Fault("timeout", "")))
    assert bounds.is_met(outcome(ended=1.0))  # a picture has no tokens
    assert bounds.is_met(outcome(due=5.0, ended=5.4, pieces=[5.4], tokens=1))


@pytest.mark.parametrize("text", ["", "ttft", "ttft:x", "ttft:0", "latency:1", "e2e:1,e2e:2", "e2e:nan", "e2e:-1"])
def test_an_objective_that_is_none_is_refused_with_an_example(text):
    with pytest.raises(InvalidRequest, match=r"like ttft:0\.5,e2e:5"):
        Objective.parse(text)


@given(
    st.lists(
        st.tuples(st.floats(0, 9), st.floats(0, 5), st.integers(0, 6), st.integers(0, 50), st.booleans()), max_size=30
    )
)
def test_no_request_and_no_token_is_lost_between_seconds(drawn):
    outcomes = []
    for due, took, pieces, tokens, failed in drawn:
        times = [due + took * (place + 1) / pieces for place in range(pieces)]
        outcomes.append(outcome(due, due + took, times, tokens, Fault("x", "") if failed else None))
    end = max((each.ended for each in outcomes), default=0.0)
    found = series(outcomes, 0.0, end)
    good = [each for each in outcomes if each.fault is None]
    assert len(found) == int(end) + 1
    assert sum(each.ended for each in found) == len(good)
    assert sum(each.errors for each in found) == len(outcomes) - len(good)
    assert sum(each.output_tokens for each in found) == pytest.approx(
        sum(each.content.output_tokens for each in good), abs=0.01
    )
    for number, each in enumerate(found[:-1], 1):
        assert each.under_way == sum(one.due < number <= one.ended for one in outcomes)
    assert found[-1].under_way == 0
