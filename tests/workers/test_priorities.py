"""Which job is claimed next: by priority and deadline, with nobody waiting for ever; and what is past its deadline."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from contracts import keys
from contracts.errors import EngineFailed
from contracts.jobs import JobQueue
from contracts.orders import Order
from contracts.requests import PRIORITIES, ImageRequest, Priority, Target
from contracts.results import ImageResult
from workers.leases import Ending, Lease, Leases

TARGET = Target(model="m", version=1, variant="pytorch:fp32")
ENGINE = TARGET.engine
PICTURE = ImageRequest(target=TARGET, seed=1, count=1)
LIFETIMES: dict[str, Any] = {"result_seconds": 120, "timeout_seconds": 60}


@pytest.fixture
def leases(connection: Redis) -> Leases:
    return Leases(connection, "worker")


@pytest.fixture
def enqueue(jobs: JobQueue):
    def enqueue(priority: Priority, count: int = 1, **changes: Any) -> list[str]:
        orders = [Order(request=PICTURE, priority=priority, **LIFETIMES, **changes) for _ in range(count)]
        jobs.enqueue(orders)
        return [order.job_id for order in orders]

    return enqueue


def claim(leases: Leases, free: int = 1) -> list[Lease]:
    return leases.claim({ENGINE: free})


def priorities(claimed: list[Lease]) -> list[str]:
    return [lease.queue.rpartition("/")[2] for lease in claimed]


def in_seconds(seconds: float) -> float:
    return time.time() + seconds


def test_urgent_jobs_go_first_and_every_eighth_place_begins_with_the_least_urgent(leases, enqueue):
    for priority in reversed(PRIORITIES):
        enqueue(priority, 20)
    assert priorities(claim(leases, 16)) == (["high"] * 7 + ["low"]) * 2


@pytest.mark.parametrize("places", [1, 3, 64])
def test_low_jobs_are_claimed_behind_a_stream_of_urgent_ones_whatever_places_are_free(leases, enqueue, places):
    low = enqueue("low", 5)
    claimed: list[str] = []
    while not set(low) <= set(claimed):
        enqueue("high", places)
        claimed += [lease.job_id for lease in claim(leases, places)]
        assert len(claimed) <= 8 * len(low) + 2 * places, "they wait for ever"
    assert [job_id for job_id in claimed if job_id in low] == low


def test_jobs_with_deadlines_go_first_for_at_most_half_of_the_places(leases, enqueue):
    plain = enqueue("normal", 10)
    late, soon = enqueue("normal", 5, deadline=in_seconds(200)), enqueue("normal", 5, deadline=in_seconds(100))
    order = [lease.job_id for lease in claim(leases, 7)]
    assert order[::2] == plain[:4]
    assert set(order[1::2]) <= set(soon)
    claim(leases, 7)
    rest = claim(leases, 64)
    assert {*order, *plain, *late, *soon} >= {lease.job_id for lease in rest}
    assert claim(leases, 64) == [], "each is claimed once although RQ's list keeps those that came first"


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    orders=st.lists(st.tuples(st.sampled_from(PRIORITIES), st.none() | st.integers(100, 999)), max_size=40),
    places=st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
def test_every_job_is_claimed_exactly_once_and_nothing_is_left(connection, jobs, leases, orders, places):
    connection.flushall()
    made = [
        Order(request=PICTURE, priority=priority, deadline=deadline and in_seconds(deadline), **LIFETIMES)
        for priority, deadline in orders
    ]
    jobs.enqueue(made)
    claimed: list[str] = []
    while some := claim(leases, places[len(claimed) % len(places)]):
        claimed += [lease.job_id for lease in some]
    assert sorted(claimed) == sorted(order.job_id for order in made)
    assert not list(connection.scan_iter("kamishibai:load:*"))
    assert not list(connection.scan_iter("kamishibai:deadlines:*"))


def test_a_claim_tells_how_long_there_is_until_the_deadline(leases, enqueue):
    enqueue("high", deadline=in_seconds(30))
    (lease,) = claim(leases)
    assert 29 < lease.seconds_to_deadline <= 30
    assert lease.work == 1


def test_a_job_past_its_deadline_is_not_started_but_expires(connection, jobs, leases, enqueue):
    (gone,) = enqueue("normal", deadline=in_seconds(0.05))
    (good,) = enqueue("normal")
    time.sleep(0.1)
    listener = connection.pubsub()
    listener.subscribe(keys.ENDED_CHANNEL)
    listener.get_message(timeout=1)
    assert [lease.job_id for lease in claim(leases, 5)] == [good]
    record = jobs.read(gone)
    assert (record.status, record.error.code, record.started_at) == ("expired", "expired", None)
    assert gone.encode() in listener.get_message(timeout=1)["data"]
    assert connection.zscore(f"rq:failed:{TARGET.queue()}", gone)
    assert 0 < connection.ttl(f"rq:job:{gone}") <= 120
    listener.close()


def test_the_janitor_expires_what_waits_while_no_place_is_free(connection, jobs, leases, enqueue):
    expired = enqueue("low", 3, deadline=in_seconds(0.05))
    (kept,) = enqueue("low", deadline=in_seconds(60))
    time.sleep(0.1)
    leases.recover()
    assert [jobs.read(job_id).status for job_id in expired] == ["expired"] * 3
    assert connection.lrange(f"rq:queue:{TARGET.queue('low')}", 0, -1) == [kept.encode()]
    assert jobs.ahead(TARGET, "low") == (1, 1)


def test_a_job_that_is_given_back_has_its_weight_and_deadline_again(connection, jobs, leases, enqueue):
    (job_id,) = enqueue("high", deadline=in_seconds(60))
    before = connection.zscore(keys.deadlines(TARGET.queue("high")), job_id)
    leases.release(claim(leases))
    assert connection.zscore(keys.deadlines(TARGET.queue("high")), job_id) == before
    assert jobs.ahead(TARGET, "normal") == (1, 1)
    (lease,) = claim(leases)
    connection.zadd(f"rq:wip:{lease.queue}", {f"{lease.job_id}:{lease.execution_id}": 1})  # its lease runs out
    leases.recover()
    assert connection.zscore(keys.deadlines(TARGET.queue("high")), job_id) == before
    assert [lease.job_id for lease in claim(leases, 5)] == [job_id]


@pytest.mark.parametrize("planted", [("set", "x"), ("rpush", "x"), ("sadd", "x")])
def test_foreign_keys_in_the_place_of_ours_hold_nobody_up(connection, jobs, leases, enqueue, planted):
    ids = enqueue("normal", 4, deadline=in_seconds(60), owner="a", webhook="https://example.org/")
    command, value = planted
    places = (keys.deadlines(TARGET.queue()), keys.load(ENGINE), "kamishibai:webhooks", "kamishibai:unfinished:a")
    for place in places:
        connection.delete(place)
        getattr(connection, command)(place, value)
    claimed = claim(leases, 9)
    assert [lease.job_id for lease in claimed] == ids
    leases.release(claimed)
    leases.recover()
    again = claim(leases, 9)
    leases.complete([Ending(again[0], "finished", result=ImageResult(count=1, pictures=["x"]))])
    assert jobs.cancel(ids[1])
    assert [jobs.read(job_id).status for job_id in ids] == ["succeeded", "cancelled", "running", "running"]


def test_ends_of_all_kinds_leave_word_for_the_webhook_and_the_owners_count(connection, jobs, leases, enqueue):
    changes: dict[str, Any] = {"owner": "a", "webhook": "https://example.org/"}
    done, failed, cancelled = enqueue("normal", 3, **changes)
    (expired,) = enqueue("normal", deadline=in_seconds(0.01), **changes)
    connection.zadd("kamishibai:unfinished:a", dict.fromkeys([done, failed, cancelled, expired], 1.0))
    time.sleep(0.05)
    jobs.cancel(cancelled)
    first, second = claim(leases, 9)
    assert connection.zcard("kamishibai:webhooks") == 2
    leases.complete(
        [
            Ending(first, "finished", result=ImageResult(count=1, pictures=["x"])),
            Ending(second, "failed", error=EngineFailed("no")),
        ]
    )
    due = connection.zrange("kamishibai:webhooks", 0, -1, withscores=True)
    assert {job_id.decode() for job_id, _ in due} == {done, failed, cancelled, expired}
    assert all(abs(score - time.time()) < 5 for _, score in due)
    assert not connection.exists("kamishibai:unfinished:a")
