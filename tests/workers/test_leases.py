"""Leases on a real Redis: what a claim takes, what a release gives back, and what a publish adds."""

from __future__ import annotations

import functools
import json
import math
import operator
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis
from rq.executions import Execution
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from contracts import keys
from contracts.connection import TIMEOUT_SECONDS, connect
from contracts.errors import EngineFailed, InvalidRequest
from contracts.orders import Order
from contracts.requests import ImageRequest, Target, TextRequest
from contracts.results import Choice, ImageResult, TextResult
from workers.leases import LEASE_SECONDS, Ending, Lease, Leases
from workers.scripts import MOST_JOBS

LIFETIMES: dict[str, Any] = {"result_seconds": 120, "timeout_seconds": 60}
TARGETS = {name: Target(model=name, version=1, variant="pytorch:fp32") for name in "abc"}
QUEUES = {name: target.queue() for name, target in TARGETS.items()}
ENGINES = {name: target.engine for name, target in TARGETS.items()}
A = QUEUES["a"]


@pytest.fixture
def leases(connection) -> Leases:
    return Leases(connection, "worker")


@pytest.fixture
def enqueue(jobs):
    def enqueue(count: int, name: str = "a") -> list[str]:
        request = ImageRequest(target=TARGETS[name], seed=1, count=1)
        return [jobs.submit(Order(request=request, **LIFETIMES)) for _ in range(count)]

    return enqueue


def ids(claimed) -> list[str]:
    return [lease.job_id for lease in claimed]


def waiting(connection, queue: str = A) -> list[str]:
    return [job_id.decode() for job_id in connection.lrange(f"rq:queue:{queue}", 0, -1)]


def lapse(connection, lease) -> None:
    connection.zadd(f"rq:wip:{lease.queue}", {f"{lease.job_id}:{lease.execution_id}": 1})


# Claim


def test_a_claim_takes_jobs_in_order_and_puts_them_into_rqs_books(connection, jobs, leases, enqueue):
    enqueued = enqueue(3)
    claimed = leases.claim({ENGINES["a"]: 2})
    assert ids(claimed) == enqueued[:2]
    assert {(lease.queue, lease.timeout_seconds) for lease in claimed} == {(A, 60.0)}
    assert len({lease.execution_id for lease in claimed}) == 2
    assert waiting(connection) == enqueued[2:]
    assert [jobs.read(job_id).status for job_id in enqueued] == ["running", "running", "queued"]
    started = StartedJobRegistry(A, connection=connection, serializer=JSONSerializer)
    assert sorted(started.get_job_ids()) == sorted(enqueued[:2])
    job = Job.fetch(enqueued[0], connection=connection, serializer=JSONSerializer)
    assert job.worker_name == "worker"


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 80), min_size=3, max_size=3),
    free=st.dictionaries(st.sampled_from("abc"), st.sampled_from([0, 1, 5, 40, 64, 100])),
)
@example(sizes=[80, 80, 80], free={"a": 60, "b": 40, "c": 1})
@example(sizes=[80, 0, 0], free={"a": 100})
def test_a_claim_exceeds_neither_free_places_nor_its_bound(connection, leases, enqueue, sizes, free):
    connection.flushall()
    enqueued = {name: enqueue(size, name) for name, size in zip("abc", sizes, strict=True)}
    claimed = leases.claim({ENGINES[name]: count for name, count in free.items()})
    wanted = sum(min(free[name], len(enqueued[name])) for name in free)
    assert len(claimed) == min(wanted, MOST_JOBS)
    for name in "abc":
        mine = [lease.job_id for lease in claimed if lease.queue == QUEUES[name]]
        assert len(mine) <= free.get(name, 0)
        assert mine == enqueued[name][: len(mine)]
        assert waiting(connection, QUEUES[name]) == enqueued[name][len(mine) :]


def test_a_claim_falls_through_cancelled_and_deleted_jobs(connection, jobs, leases, enqueue):
    enqueued = enqueue(5)
    connection.hset(f"rq:job:{enqueued[0]}", "status", "canceled")  # as by a client that crashed before it took it off
    connection.delete(f"rq:job:{enqueued[1]}")
    jobs.cancel(enqueued[3])
    assert ids(leases.claim({ENGINES["a"]: 2})) == [enqueued[2], enqueued[4]]
    assert waiting(connection) == []
    assert jobs.read(enqueued[0]).status == "cancelled"


def test_a_claim_passes_the_token_on_while_work_is_left(connection, leases, enqueue):
    enqueue(3)
    connection.delete(keys.bell(ENGINES["a"]))
    leases.claim({ENGINES["a"]: 0})
    assert connection.llen(keys.bell(ENGINES["a"])) == 1
    connection.delete(keys.bell(ENGINES["a"]))
    leases.claim({ENGINES["a"]: 2})
    assert connection.llen(keys.bell(ENGINES["a"])) == 1
    connection.delete(keys.bell(ENGINES["a"]))
    leases.claim({ENGINES["a"]: 2})
    assert not connection.exists(keys.bell(ENGINES["a"]))


def test_what_redis_carries_out_after_its_sender_gave_up_takes_nothing(connection, jobs, leases, enqueue):
    """A server that stood still for a while then does what was sent meanwhile."""
    (running, queued) = enqueue(2)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    lapse(connection, lease)
    late = Leases(connection, "late")
    late.claim({})
    late._ahead_seconds -= TIMEOUT_SECONDS + 1
    assert late.claim({ENGINES["a"]: 9}) == []
    assert late.recover() == (0, 0)
    assert [jobs.read(job_id).status for job_id in (running, queued)] == ["running", "queued"]
    assert leases.renew([lease]) == set(), "whoever has it keeps it"


def test_an_execution_that_ran_out_is_whole_again_after_it_was_renewed(connection, leases, enqueue):
    enqueue(1)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    connection.delete(f"rq:execution:{lease.job_id}:{lease.execution_id}")
    assert leases.renew([lease]) == set()
    execution = Execution.fetch(lease.execution_id, lease.job_id, connection)
    assert execution.worker_name == "worker"


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(b"7", 7.0), (b"-1", math.inf), (b"0", math.inf), (b"", math.inf), (b"soon", math.inf)]
)
def test_a_job_without_a_measurable_timeout_has_none(connection, leases, enqueue, timeout, seconds):
    (job_id,) = enqueue(1)
    connection.hset(f"rq:job:{job_id}", "timeout", timeout)
    assert leases.claim({ENGINES["a"]: 1})[0].timeout_seconds == seconds


def test_a_job_without_data_is_claimed_and_can_be_failed(connection, jobs, leases, enqueue):
    first, second = enqueue(2)
    connection.hdel(f"rq:job:{first}", "data", "timeout", "retries_left")
    lost, healthy = leases.claim({ENGINES["a"]: 2})
    assert (lost.job_id, lost.data, lost.timeout_seconds, healthy.job_id) == (first, b"", math.inf, second)
    assert leases.complete([Ending(lost, "failed", error=InvalidRequest("no data"))]) == (set(), set())
    assert connection.hget(f"rq:job:{first}", "status") == b"failed"


def test_a_thousand_jobs_are_claimed_exactly_once_by_three_claimers(redis_url, connection, enqueue):
    enqueued = enqueue(700) + enqueue(300, "b")
    claimed: dict[str, list[str]] = {name: [] for name in ("one", "two", "three")}
    begin = threading.Barrier(3)

    def claim(name: str) -> None:
        own = connect(redis_url)
        leases = Leases(own, name)
        begin.wait()
        while some := leases.claim({ENGINES["a"]: 13, ENGINES["b"]: 7}):
            claimed[name] += ids(some)
        own.close()

    claimers = [threading.Thread(target=claim, args=[name]) for name in claimed]
    for claimer in claimers:
        claimer.start()
    for claimer in claimers:
        claimer.join()
    assert sorted(functools.reduce(operator.iadd, claimed.values(), [])) == sorted(enqueued)
    assert all(claimed.values()), "all three took part"
    with connection.pipeline() as pipe:
        for each in enqueued:
            pipe.hget(f"rq:job:{each}", "worker_name")
        named = dict(zip(enqueued, pipe.execute(), strict=True))
    assert all(named[job_id].decode() == name for name, mine in claimed.items() for job_id in mine)


# Release


@pytest.mark.parametrize("count", [3, 2 * MOST_JOBS + 5])
def test_released_jobs_are_first_again_in_their_order_and_have_lost_nothing(connection, jobs, leases, enqueue, count):
    enqueued = enqueue(count)
    claimed: list[Lease] = []
    while some := leases.claim({ENGINES["a"]: count - len(claimed)}):
        claimed += some
    later = enqueue(2)
    connection.delete(keys.bell(ENGINES["a"]))
    leases.release(claimed)
    assert waiting(connection) == enqueued + later
    assert {jobs.read(job_id).status for job_id in enqueued} == {"queued"}
    assert {connection.hget(f"rq:job:{job_id}", "retries_left") for job_id in enqueued} == {b"3"}
    assert connection.llen(keys.bell(ENGINES["a"])) == 1
    assert not list(connection.scan_iter("rq:execution*"))
    assert not connection.exists(f"rq:wip:{A}")
    assert ids(leases.claim({ENGINES["a"]: 2})) == enqueued[:2]


def test_a_job_that_is_not_held_any_more_is_not_released(connection, jobs, leases, enqueue):
    enqueue(2)
    cancelled, done = leases.claim({ENGINES["a"]: 2})
    jobs.cancel(cancelled.job_id)
    leases.complete([Ending(done, "finished", result=ImageResult(count=1, pictures=["x"]))])
    leases.release([cancelled, done])
    assert waiting(connection) == []
    assert [jobs.read(lease.job_id).status for lease in (cancelled, done)] == ["cancelled", "succeeded"]


# Publish


@pytest.fixture
def heard(connection):
    with connection.pubsub() as subscription:
        subscription.subscribe(keys.DELTA_CHANNEL)
        assert subscription.get_message(timeout=1)["type"] == "subscribe"

        def messages():
            found = []
            while message := subscription.get_message(timeout=0.05):
                found.append(json.loads(message["data"]))
            return found

        yield messages


def test_published_text_is_appended_and_told_once(connection, jobs, leases, enqueue, heard):
    enqueue(2)
    one, two = leases.claim({ENGINES["a"]: 2})
    assert leases.publish([(one, 0, 0, "aä"), (two, 0, 0, "x")]) == set()
    assert leases.publish([(one, 0, 3, "日")]) == set()
    assert jobs.text_from(one.job_id, 0, 0) == "aä日"
    assert heard() == [[[one.job_id, 0, 0, "aä"], [two.job_id, 0, 0, "x"]], [[one.job_id, 0, 3, "日"]]]
    assert 0 < connection.ttl(keys.text(one.job_id, 0)) <= keys.TEXT_SECONDS


def test_a_rerun_is_silent_up_to_what_is_known_and_appends_the_rest(jobs, leases, enqueue, heard):
    enqueue(1)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    leases.publish([(lease, 0, 0, "ab日cd")])
    heard()
    for offset, text in [(0, "a"), (1, "b日"), (0, "ab日cd"), (5, "c")]:
        assert leases.publish([(lease, 0, offset, text)]) == set()
    assert heard() == []
    leases.publish([(lease, 0, 2, "日cdef")])
    assert heard() == [[[lease.job_id, 0, 7, "ef"]]]
    assert jobs.text_from(lease.job_id, 0, 0) == "ab日cdef"


def test_text_beyond_a_gap_is_not_taken(jobs, leases, enqueue, heard):
    enqueue(1)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    leases.publish([(lease, 0, 0, "ab")])
    heard()
    assert leases.publish([(lease, 0, 3, "d")]) == set()
    assert jobs.text_from(lease.job_id, 0, 0) == "ab"
    assert heard() == []


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text("aä日🎭", min_size=1), runs=st.lists(st.lists(st.integers(1, 5), max_size=8), min_size=1, max_size=3)
)
def test_runs_that_break_off_anywhere_make_one_unbroken_text(connection, jobs, leases, enqueue, text, runs):
    """Each run publishes its text in parts of its own and then loses its lease; the last one comes to the end."""
    connection.flushall()
    enqueue(1)
    for run in [*runs, [len(text)]]:
        (lease,) = leases.claim({ENGINES["a"]: 1})
        done = 0
        for size in run:
            leases.publish([(lease, 0, len(text[:done].encode()), text[done : done + size])])
            done += size
        leases.release([lease])
    assert jobs.text_from(lease.job_id, 0, 0) == text


# Renew


def test_a_renewed_lease_lives_longer(connection, leases, enqueue):
    enqueue(1)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    member = f"{lease.job_id}:{lease.execution_id}"
    execution = f"rq:execution:{lease.job_id}:{lease.execution_id}"
    connection.zadd(f"rq:wip:{A}", {member: time.time() + 1})
    connection.expire(execution, 1)
    connection.expire(f"rq:executions:{lease.job_id}", 1)
    assert leases.renew([lease]) == set()
    assert connection.zscore(f"rq:wip:{A}", member) > time.time() + LEASE_SECONDS - 2
    assert connection.ttl(execution) > 1
    assert connection.ttl(f"rq:executions:{lease.job_id}") > LEASE_SECONDS


def test_renewing_tells_which_leases_are_lost(connection, jobs, leases, enqueue):
    enqueue(MOST_JOBS)
    claimed = leases.claim({ENGINES["a"]: MOST_JOBS})
    enqueue(4)
    claimed += leases.claim({ENGINES["a"]: 4})
    assert len(claimed) == MOST_JOBS + 4
    jobs.cancel(claimed[0].job_id)
    connection.delete(f"rq:job:{claimed[-1].job_id}")
    assert leases.renew(claimed) == {claimed[0].execution_id, claimed[-1].execution_id}
    assert leases.renew([]) == set()
    assert connection.zcard(f"rq:wip:{A}") == MOST_JOBS + 2


# Complete


def test_more_endings_than_one_call_holds_are_all_written(jobs, leases, enqueue):
    enqueued = enqueue(MOST_JOBS + 10)
    claimed = leases.claim({ENGINES["a"]: 200}) + leases.claim({ENGINES["a"]: 200})
    assert leases.complete([Ending(lease, "failed", error=EngineFailed("broken")) for lease in claimed]) == (
        set(),
        set(),
    )
    assert {jobs.read(job_id).error.message for job_id in enqueued} == {"broken"}


def test_a_completion_that_is_sent_twice_counts_once(connection, jobs, leases, enqueue):
    enqueue(1)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    ending = Ending(lease, "finished", ImageResult(count=2, pictures_key="k"), pictures=[b"one", b"two"])
    assert leases.complete([ending]) == (set(), set())
    assert leases.complete([ending]) == ({lease.execution_id}, set())
    assert connection.xlen(f"rq:results:{lease.job_id}") == 1
    assert connection.llen(keys.pictures(lease.job_id, lease.execution_id)) == 2
    assert connection.zcard(f"rq:finished:{A}") == 1


# The janitor


def test_only_one_janitor_works_at_a_time(connection, leases, enqueue):
    enqueue(2)
    first, second = leases.claim({ENGINES["a"]: 2})
    other = Leases(connection, "other")
    lapse(connection, first)
    assert leases.recover() == (1, 0)
    lapse(connection, second)
    assert (other.recover(), leases.recover()) == ((0, 0), (0, 0))
    assert 0 < connection.pttl(keys.JANITOR) <= 3000
    connection.delete(keys.JANITOR)
    assert other.recover() == (1, 0)


def test_the_janitor_leaves_living_leases_alone(connection, jobs, leases, enqueue):
    enqueue(1)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    assert leases.recover() == (0, 0)
    assert jobs.read(lease.job_id).status == "running"
    assert leases.renew([lease]) == set()


def test_the_janitor_puts_a_lost_job_in_front(connection, leases, enqueue):
    first, *others = enqueue(3)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    lapse(connection, lease)
    assert leases.recover() == (1, 0)
    assert waiting(connection) == [first, *others]


@pytest.mark.parametrize("entry", [b"no-execution", b"", b":", b"\xff:\xff"])
def test_an_entry_that_is_not_rqs_does_not_stop_the_janitor(connection, leases, enqueue, entry):
    enqueue(1)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    lapse(connection, lease)
    connection.zadd(f"rq:wip:{A}", {entry: 0})
    connection.sadd("rq:queues", b"rq:queue:\xff", "rq:queue:default")
    assert leases.recover() == (1, 0)
    assert not connection.exists(f"rq:wip:{A}")


def test_the_janitor_keeps_off_queues_of_other_programs(connection, leases):
    connection.sadd("rq:queues", "rq:queue:default")
    connection.zadd("rq:wip:default", {"job:execution": 1})
    assert leases.recover() == (0, 0)
    assert connection.zcard("rq:wip:default") == 1


def test_the_text_of_an_ended_job_lives_no_longer_than_the_job(connection, jobs, leases, enqueue):
    enqueue(1)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    leases.publish([(lease, 0, 0, "text")])
    result = TextResult(choices=[Choice(text="text", finish_reason="stop", tokens=1)], prompt_tokens=1)
    leases.complete([Ending(lease, "finished", result=result)])
    for key in (keys.text(lease.job_id, 0), f"rq:job:{lease.job_id}", f"rq:results:{lease.job_id}"):
        assert 0 < connection.ttl(key) <= 120


def test_pictures_live_as_long_as_their_job_also_when_its_end_is_written_twice(connection, jobs, leases, enqueue):
    enqueue(1)
    (lease,) = leases.claim({ENGINES["a"]: 1})
    ending = Ending(lease, "finished", ImageResult(count=1, pictures_key="k"), pictures=[b"one"])
    for _ in range(2):
        leases.complete([ending])
        assert 0 < connection.ttl(keys.pictures(lease.job_id, lease.execution_id)) <= 120


def test_pictures_of_a_worker_that_lost_its_lease_do_not_stay(connection, jobs, leases, enqueue):
    enqueue(1)
    (first,) = leases.claim({ENGINES["a"]: 1})
    lapse(connection, first)
    leases.recover()
    (second,) = leases.claim({ENGINES["a"]: 1})
    for lease in (second, first):
        result = ImageResult(count=1, pictures_key="k")
        leases.complete([Ending(lease, "finished", result, pictures=[b"one"])])
    assert connection.exists(keys.pictures(second.job_id, second.execution_id))
    assert not connection.exists(keys.pictures(first.job_id, first.execution_id))


def canceled(connection) -> dict[bytes, float]:
    """Members of RQ's registry of cancelled jobs, with the Unix second until which they stay."""
    return dict(connection.zrange(f"rq:canceled:{A}", 0, -1, withscores=True))


def recover_again(connection, leases) -> None:
    connection.delete(keys.JANITOR)
    leases.recover()


def test_a_cancelled_job_leaves_rqs_registry_when_its_record_goes(connection, jobs, leases, enqueue):
    kept, gone = enqueue(2)
    for job_id in (kept, gone):
        jobs.cancel(job_id)
    leases.recover()
    assert all(0 < until - time.time() <= 120 for until in canceled(connection).values())
    assert set(canceled(connection)) == {kept.encode(), gone.encode()}
    connection.zadd(f"rq:canceled:{A}", {kept: 1, gone: 1})
    connection.delete(f"rq:job:{gone}")
    recover_again(connection, leases)
    assert set(canceled(connection)) == {kept.encode()}
    assert abs(canceled(connection)[kept.encode()] - time.time() - connection.ttl(f"rq:job:{kept}")) <= 2


def test_a_job_that_rqs_own_tools_have_cancelled_gets_the_lifetime_of_a_result(connection, jobs, leases, enqueue):
    (job_id,) = enqueue(1)
    Job.fetch(job_id, connection=connection, serializer=JSONSerializer).cancel()
    assert connection.ttl(f"rq:job:{job_id}") == -1
    for _ in range(2):
        recover_again(connection, leases)
        assert 0 < connection.ttl(f"rq:job:{job_id}") <= 120
        assert set(canceled(connection)) == {job_id.encode()}
    assert jobs.read(job_id).status == "cancelled"


def test_what_is_no_cancelled_job_leaves_the_registry_and_is_let_alone(connection, jobs, leases, enqueue):
    (waiting_job,) = enqueue(1)
    connection.set("rq:job:text", "x")
    connection.zadd(f"rq:canceled:{A}", {waiting_job: 1, "text": 1, "nothing": 1, b"\xff:": 1})
    leases.recover()
    assert canceled(connection) == {}
    assert jobs.read(waiting_job).status == "queued"
    assert connection.ttl(f"rq:job:{waiting_job}") == connection.ttl("rq:job:text") == -1


# What others put there: their job alone is harmed by it


@pytest.mark.parametrize("job_id", [b"\xff\xfe", b"a:b", b"a b", b"", b"a\nb", b"\0"])
def test_an_id_that_is_none_of_rqs_is_not_claimed(connection, leases, enqueue, job_id):
    connection.rpush(f"rq:queue:{A}", job_id)
    connection.hset(b"rq:job:" + job_id, mapping={"status": "queued", "data": "x"})
    enqueued = enqueue(1)
    assert ids(leases.claim({ENGINES["a"]: 2})) == enqueued


PLANTED: dict[str, Callable[[Redis, str], object]] = {
    "job": lambda connection, job_id: connection.set(f"rq:job:{job_id}", "x"),
    "results": lambda connection, job_id: connection.set(f"rq:results:{job_id}", "x"),
    "executions": lambda connection, job_id: connection.set(f"rq:executions:{job_id}", "x"),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED.keys())
def test_a_job_with_a_key_of_another_type_is_not_claimed(connection, leases, enqueue, plant):
    bad, good = enqueue(2)
    plant(connection, bad)
    assert ids(leases.claim({ENGINES["a"]: 2})) == [good]


def test_a_queue_of_another_type_holds_up_no_other(connection, leases, enqueue):
    connection.set(f"rq:queue:{A}", "x")
    enqueued = enqueue(1, "b")
    assert ids(leases.claim({ENGINES["a"]: 1, ENGINES["b"]: 1})) == enqueued


def test_a_text_of_another_type_holds_up_no_other(connection, jobs, leases, enqueue):
    enqueue(2)
    bad, good = leases.claim({ENGINES["a"]: 2})
    connection.rpush(keys.text(bad.job_id, 0), "x")
    assert leases.publish([(bad, 0, 0, "a"), (good, 0, 0, "b")]) == set()
    assert jobs.text_from(good.job_id, 0, 0) == "b"


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1.5", "-1", "1e999", "x", "", "9" * 40, "0x10"])
@pytest.mark.parametrize("outcome", ["finished", "failed"])
def test_a_field_that_is_no_number_holds_up_no_other_completion(connection, jobs, leases, enqueue, number, outcome):
    enqueue(2)
    bad, good = leases.claim({ENGINES["a"]: 2})
    for field in ("result_ttl", "failure_ttl", "timeout", "retries_left"):
        connection.hset(f"rq:job:{bad.job_id}", field, number)
    result = ImageResult(count=1, pictures=["x"])
    error = EngineFailed("broken")
    leases.complete([Ending(bad, outcome, result=result if outcome == "finished" else None, error=error)])
    assert leases.complete([Ending(good, "finished", result=result)]) == (set(), set())
    assert jobs.read(bad.job_id).ended
    assert 0 < connection.ttl(f"rq:job:{bad.job_id}") <= 3600
    assert jobs.read(good.job_id).status == "succeeded"


@pytest.mark.parametrize("attempts", ["nan", "inf", "x", "", "1.5", "-1", "9" * 40])
def test_attempts_that_are_no_number_do_not_stop_the_janitor(connection, jobs, leases, enqueue, attempts):
    bad, good = enqueue(2)
    for lease in leases.claim({ENGINES["a"]: 2}):
        lapse(connection, lease)
    connection.hset(f"rq:job:{bad}", "retries_left", attempts)
    assert sum(leases.recover()) == 2
    assert jobs.read(good).status == "queued"
    assert jobs.read(bad).status in ("queued", "failed")


def test_a_queue_of_a_million_dead_ids_is_looked_at_in_parts(connection, leases, enqueue):
    connection.rpush(f"rq:queue:{A}", *range(3000))
    enqueued = enqueue(1)
    claims = [ids(leases.claim({ENGINES["a"]: 1})) for _ in range(3)]
    assert claims == [[], [], enqueued]
    assert connection.llen(keys.bell(ENGINES["a"])) == 1


# Payloads that only newer workers read


@pytest.fixture
def older(connection) -> Leases:
    """Of a worker that knows no pictures yet."""
    return Leases(connection, "older", {"text:1"})


def test_a_job_that_only_newer_workers_read_stays_where_it_is(older, leases, enqueue, connection, jobs):
    newer = enqueue(3)
    before = {job_id: connection.hgetall(f"rq:job:{job_id}") for job_id in newer}
    deadline = time.time() + 100
    request = ImageRequest(target=TARGETS["a"], seed=1, count=1)
    newer.append(jobs.submit(Order(request=request, deadline=deadline, **LIFETIMES)))
    text = TextRequest(target=TARGETS["a"], seed=1, prompt_tokens=(1,), max_tokens=1)
    readable = jobs.submit(Order(request=text, **LIFETIMES))
    connection.hset(f"rq:job:{readable}", "meta", '{"work": 2, "payload": "text:1"}')
    load = connection.hgetall(keys.load(ENGINES["a"]))
    assert ids(older.claim({ENGINES["a"]: 9})) == [readable], "what is behind them is taken"
    for _ in range(3):
        assert older.claim({ENGINES["a"]: 9}) == []
    assert waiting(connection) == newer
    assert {job_id: connection.hgetall(f"rq:job:{job_id}") for job_id in before} == before
    assert connection.zrange(keys.deadlines(A), 0, -1, withscores=True) == [
        (newer[-1].encode(), pytest.approx(deadline))
    ]
    assert int(connection.hget(keys.load(ENGINES["a"]), "work")) == int(load[b"work"]) - 2
    assert sorted(ids(leases.claim({ENGINES["a"]: 9}))) == sorted(newer)
    assert connection.exists(keys.load(ENGINES["a"])) == 0


def test_a_worker_rings_no_bell_for_itself_over_jobs_that_it_cannot_read(older, enqueue, connection):
    enqueue(1)
    connection.delete(keys.bell(ENGINES["a"]))
    assert older.claim({ENGINES["a"]: 1}) == []
    assert connection.exists(keys.bell(ENGINES["a"])) == 0
    older.claim({ENGINES["a"]: 0})
    assert connection.exists(keys.bell(ENGINES["a"])) == 1, "others may have places"


def test_what_stands_in_meta_of_a_job_of_others_keeps_nobody_from_it(older, enqueue, connection):
    odd = ['{"payload": 5}', '{"payload": "x"}', '{"payload": ["text:9"]}', "[]", ""]
    for job_id, meta in zip(enqueue(len(odd)), odd, strict=True):
        connection.hset(f"rq:job:{job_id}", "meta", meta)
    assert len(older.claim({ENGINES["a"]: 9})) == len(odd)


def test_many_jobs_that_cannot_be_read_keep_redis_no_longer_than_one_claim(older, leases, enqueue, connection):
    newer = enqueue(MOST_JOBS + 6)
    assert older.claim({ENGINES["a"]: 9}) == []
    assert waiting(connection) == newer
    assert ids(leases.claim({ENGINES["a"]: 2})) == newer[:2]
