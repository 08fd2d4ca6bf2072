"""What a worker counts of its engines' calls and of its jobs' times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.announcements import BOUNDS
from contracts.errors import EngineFailed
from contracts.orders import Order
from contracts.requests import TextRequest
from workers.flight import take_off
from workers.leases import Ending, Leases
from workers.pace import Pace
from workers.tally import EngineTally, Observations


class Clock:
    seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize(
    ("value", "index"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (128, 7), (129, 8), (256, 8), (257, 9), (9999, 9)]
)
def test_a_value_is_counted_under_the_smallest_bound_that_holds_it(value, index):
    observed = Observations(BOUNDS["batch_size"])
    observed.add(value)
    assert observed.histogram().counts == tuple(int(i == index) for i in range(10))


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 1000), st.integers(0, 8))))
def test_calls_only_add_up(calls):
    tally = EngineTally()
    for batch_size, units, eighths in calls:
        tally.count_call(call(batch_size=batch_size, units=units, seconds=eighths / 8))
    counters = tally.counters(8, idle=False)
    assert counters.units == sum(units for _, units, _ in calls)
    assert sum(counters.histograms["batch_size"].counts) == len(calls)
    assert counters.histograms["batch_size"].sum == sum(batch_size for batch_size, _, _ in calls)
    assert counters.histograms["call_seconds"].sum == sum(eighths / 8 for _, _, eighths in calls)


def test_an_engine_without_jobs_uses_nothing_whatever_its_last_call_said():
    tally = EngineTally()
    tally.count_call(call(running=3, waiting=2))
    busy, idle = tally.counters(8, idle=False), tally.counters(8, idle=True)
    assert (busy.slots, busy.slots_used, busy.waiting) == (8, 3, 2)
    assert (idle.slots, idle.slots_used, idle.waiting) == (8, 0, 0)


def test_the_first_token_counts_from_the_queue_and_later_ones_share_the_time_since_the_call_before(clock):
    pace = Pace(2.0, clock)
    clock.seconds += 0.5
    assert pace.take(0, 4) == (2.5, None)
    clock.seconds += 0.5
    assert pace.take(1, 1) == (None, None)
    clock.seconds += 1.0
    assert pace.take(0, 3) == (None, 0.5)
    assert pace.take(0, 0) == (None, None)
    clock.seconds += 1.0
    assert pace.take(1, 1) == (None, 2.0)


def test_what_begins_again_is_not_measured_from_before(clock):
    pace = Pace(2.0, clock)
    pace.take(0, 1)
    pace.restart()
    clock.seconds += 10
    assert pace.take(0, 1) == (None, None)
    clock.seconds += 1
    assert pace.take(0, 1) == (None, 1.0)


def test_a_job_that_ran_before_has_no_first_token(clock):
    assert Pace(None, clock).take(0, 1) == (None, None)


def test_a_claim_knows_the_request_and_how_long_the_job_waited_the_first_time(connection, jobs, request_of):
    request = request_of(0)
    engine = request.target.engine
    jobs.submit(Order(request=request, result_seconds=60, timeout_seconds=60, request_id="request-1"))
    leases = Leases(connection, "worker")
    (lease,) = leases.claim({engine: 1})
    assert lease.request_id == "request-1"
    assert lease.waited_seconds is not None
    assert 0 <= lease.waited_seconds < 5
    leases.release([lease])
    (again,) = leases.claim({engine: 1})
    assert (again.job_id, again.request_id, again.waited_seconds) == (lease.job_id, "request-1", None)


@pytest.mark.parametrize(
    "meta",
    [b"", b"{", b"[]", b'{"request_id": 5}', b'{"request_id": "two\\nlines"}', b'{"request_id": "%s"}' % (b"x" * 200)],
)
def test_a_planted_request_id_is_none(connection, jobs, request_of, meta):
    request = request_of(0)
    job_id = jobs.submit(Order(request=request, result_seconds=60, timeout_seconds=60))
    connection.hset(f"rq:job:{job_id}", mapping={"meta": meta, "enqueued_at": b"soon"})
    (lease,) = Leases(connection, "worker").claim({request.target.engine: 1})
    assert (lease.request_id, lease.waited_seconds) == (None, None)


def test_jobs_are_counted_by_outcome_and_their_prompts_by_tokens(connection, jobs, request_of, store):
    request = request_of(0)
    assert isinstance(request, TextRequest)
    jobs.submit(Order(request=request, result_seconds=60, timeout_seconds=60))
    (lease,) = Leases(connection, "worker").claim({request.target.engine: 1})
    flight = take_off(lease, store.open(request.target.model), "fingerprint")
    tally = EngineTally()
    tally.count_start(flight)
    tally.count_tokens(flight, 0, 2)
    tally.count_end(Ending(lease, "finished"))
    tally.count_end(flight.crash(EngineFailed("it broke")))
    counters = tally.counters(8, idle=True)
    assert counters.prompt_tokens == len(request.prompt_tokens)
    assert counters.jobs == {"finished": 1, "engine_failed": 1}
    assert sum(counters.histograms["queue_seconds"].counts) == 1
    assert sum(counters.histograms["first_token_seconds"].counts) == 1
    assert sum(counters.histograms["between_tokens_seconds"].counts) == 0


def call(**given):
    return {"batch_size": 1, "units": 1, "seconds": 0.0, "running": 0, "waiting": 0, **given}
