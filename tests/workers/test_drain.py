"""The pace at which a queue drains."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.drain import MEMORY_SECONDS, Drain


def test_nothing_is_known_before_a_job_has_ended():
    drain = Drain()
    drain.call(10.0, 0.02)
    assert (drain.work_per_second, drain.seconds_per_work) == (None, None)


def test_the_rate_counts_the_calls_of_others_in_between_but_no_idle_time():
    drain = Drain()
    drain.call(100.0, 0.1)  # the time of the call
    drain.call(100.2, 0.1)  # since the call before: another model had its turn
    drain.call(500.0, 0.1)  # idle in between
    drain.ended(work=8, run_seconds=2.0)
    assert drain.work_per_second == pytest.approx(8 / 0.4)
    assert drain.seconds_per_work == 0.25


@given(st.floats(0.5, 50), st.floats(0.5, 50))
def test_it_follows_a_change_of_pace_within_a_few_minutes_of_work(before, after):
    drain, now = Drain(), 0.0
    for pace, minutes in ((before, 10), (after, 6)):
        for _ in range(minutes * 600):
            now += 0.1
            drain.call(now, 0.1)
            drain.ended(work=pace * 0.1, run_seconds=0.1)
    assert drain.work_per_second == pytest.approx(after, abs=0.1 * abs(before - after) + 0.01 * max(before, after))
    assert MEMORY_SECONDS * 0.5 < drain._busy_seconds <= MEMORY_SECONDS
