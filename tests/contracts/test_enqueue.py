"""Orders on a real Redis: what an accepted one leaves, and what is refused."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer

from contracts import keys
from contracts.connection import connect
from contracts.enqueue import JOB_FUNCTION, LOST_LEASES_ALLOWED, Accepted
from contracts.errors import IdempotencyConflict, NotFound, QueueFull, RateLimited, TooManyJobs
from contracts.jobs import JobQueue
from contracts.orders import Idempotency, JobMeta, Order, OrderLimits
from contracts.requests import PRIORITIES, ImageRequest, Target, TextRequest

TARGET = Target(model="m", version=1, variant="pytorch:fp32")
TEXT = TextRequest(target=TARGET, seed=7, prompt_tokens=(1, 2, 3), max_tokens=10, n=2)
PICTURE = ImageRequest(target=TARGET, seed=7, count=2)
EVERYTHING: dict[str, Any] = {
    "priority": "high",
    "owner": "somebody",
    "request_id": "r-1",
    "deadline": 4e9,
    "metadata": {"a": "b", "ä": "☃"},
    "webhook": "https://example.org/",
    "listed": True,
}


def order(request=PICTURE, **changes: Any) -> Order:
    return Order(request=request, result_seconds=120, timeout_seconds=60, **changes)


def refusal(outcome) -> type:
    return type(outcome)


# What is left


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_the_keys_and_fields_are_those_that_rqs_own_enqueue_leaves(connection, jobs, changes):
    own_job = order(**changes)
    job_id = jobs.submit(own_job)
    left = {key: connection.type(key) for key in connection.scan_iter("rq:*")}
    ours = connection.hgetall(f"rq:job:{job_id}")
    connection.flushall()
    queue = Queue(own_job.queue, connection=connection, serializer=JSONSerializer)
    job = Job.create(
        JOB_FUNCTION,
        args=[PICTURE.model_dump(mode="json")],
        connection=connection,
        serializer=JSONSerializer,
        id=job_id,
        description="image m@1",
        timeout=60,
        result_ttl=120,
        failure_ttl=120,
        meta=own_job.meta.model_dump(exclude_defaults=True),
    )
    retry = Retry(max=LOST_LEASES_ALLOWED)
    job.retries_left, job.retry_intervals = retry.max, retry.intervals
    queue.enqueue_job(job)
    assert left == {key: connection.type(key) for key in connection.scan_iter("rq:*")}
    theirs = connection.hgetall(f"rq:job:{job_id}")
    assert ours.keys() == theirs.keys()
    times = {b"created_at", b"enqueued_at"}
    fields = ours.keys() - times - {b"meta", b"data"}
    assert {field: ours[field] for field in fields} == {field: theirs[field] for field in fields}
    assert all(len(ours[field]) == len(theirs[field]) for field in times)
    fetched = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
    connection.hset(f"rq:job:{job_id}", mapping=ours)
    again = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
    assert (again.func_name, again.args, again.kwargs) == (fetched.func_name, fetched.args, fetched.kwargs)
    assert again.meta == fetched.meta


def test_all_that_is_said_of_an_order_is_read_back(connection, jobs):
    record = jobs.read(jobs.submit(order(TEXT, **EVERYTHING)))
    assert record.priority == "high"
    assert record.meta == JobMeta(
        owner="somebody",
        request_id="r-1",
        payload="text:2",
        work=3 + 2 * 10,
        deadline=4e9,
        metadata={"a": "b", "ä": "☃"},
        webhook="https://example.org/",
    )
    assert connection.zscore(keys.deadlines(TARGET.queue("high")), record.id) == 4e9


@pytest.mark.parametrize(
    "meta", [b"", b"x", b"[]", b'{"owner": 5}', b'{"deadline": NaN}', b'{"owner": "a", "x": "' + b"y" * 70_000 + b'"}']
)
def test_what_is_noted_beside_a_foreign_job_says_nothing(meta):
    assert JobMeta.read(meta) == JobMeta()


def test_many_orders_keep_their_order_and_each_is_on_its_queue(connection, jobs):
    orders = [order(priority=PRIORITIES[number % 3]) for number in range(200)]
    assert jobs.enqueue(orders) == [Accepted(each.job_id, repeated=False) for each in orders]
    for index, priority in enumerate(PRIORITIES):
        waiting = [job_id.decode() for job_id in connection.lrange(f"rq:queue:{TARGET.queue(priority)}", 0, -1)]
        assert waiting == [each.job_id for each in orders[index::3]]
    assert connection.lrange(keys.bell(TARGET.engine), 0, -1) == [b"1"]


def test_the_same_job_id_is_the_same_job(jobs):
    jobs.submit(order(job_id="one"))
    assert jobs.enqueue([order(job_id="one"), order(job_id="two")]) == [
        Accepted("one", repeated=True),
        Accepted("two", repeated=False),
    ]
    assert jobs.depth([TARGET.queue()]) == [2]


# Idempotency


def test_an_idempotency_key_makes_one_job_and_another_body_is_a_conflict(jobs):
    first = jobs.submit(order(owner="a", idempotency=Idempotency("key", "digest")))
    again, other, foreign = (
        jobs.enqueue([order(owner=owner, idempotency=Idempotency("key", digest))])[0]
        for owner, digest in (("a", "digest"), ("a", "another"), ("b", "digest"))
    )
    assert again == Accepted(first, repeated=True)
    assert refusal(other) is IdempotencyConflict
    assert isinstance(foreign, Accepted)
    assert (foreign.job_id == first, foreign.repeated) == (False, False)
    assert jobs.depth([TARGET.queue()]) == [2]


def test_the_same_key_at_the_same_instant_through_many_connections_makes_one_job(connection, redis_url):
    made: list[Any] = []
    begin = threading.Barrier(8)

    def enqueue() -> None:
        with connect(redis_url) as own:
            queue, mine = JobQueue(own), order(idempotency=Idempotency("key", "digest"))
            begin.wait()
            made.extend(queue.enqueue([mine]))

    threads = [threading.Thread(target=enqueue) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({outcome.job_id for outcome in made}) == 1
    assert sorted(outcome.repeated for outcome in made) == [False] + [True] * 7
    assert JobQueue(connection).depth([TARGET.queue()]) == [1]


def test_a_refused_order_leaves_its_idempotency_key_unused(jobs):
    limits = OrderLimits(queued_jobs=1)
    jobs.submit(order())
    mine = order(idempotency=Idempotency("key", "digest"))
    assert refusal(jobs.enqueue([mine], limits)[0]) is QueueFull
    assert jobs.enqueue([mine]) == [Accepted(mine.job_id, repeated=False)]


# Limits


def test_a_full_queue_refuses_by_jobs_of_all_priorities_together(jobs):
    limits = OrderLimits(queued_jobs=3)
    outcomes = jobs.enqueue([order(priority=priority) for priority in (*PRIORITIES, "high", "low")], limits)
    assert [refusal(each) for each in outcomes] == [Accepted] * 3 + [QueueFull] * 2
    other = PICTURE.model_copy(update={"target": Target(model="other", version=1, variant="pytorch:fp32")})
    assert refusal(jobs.enqueue([order(other)], limits)[0]) is Accepted


@pytest.mark.parametrize("limits", [OrderLimits(queued_work=60), OrderLimits(queued_bytes=700)], ids=["work", "bytes"])
def test_a_full_queue_refuses_by_what_its_jobs_weigh_but_an_empty_one_takes_any(connection, jobs, limits):
    heavy = TEXT.model_copy(update={"max_tokens": 500, "prompt_tokens": tuple(range(700))})
    assert refusal(jobs.enqueue([order(heavy)], limits)[0]) is Accepted
    assert refusal(jobs.enqueue([order()], limits)[0]) is QueueFull
    connection.delete(f"rq:queue:{TARGET.queue()}")  # as by somebody who empties it
    outcomes = jobs.enqueue([order(TEXT) for _ in range(4)], limits)
    assert [refusal(each) for each in outcomes] == [Accepted, Accepted, QueueFull, QueueFull]


def test_what_was_cancelled_weighs_nothing(connection, jobs):
    ids = [jobs.submit(order(TEXT)) for _ in range(3)]
    assert connection.hget(keys.load(TARGET.engine), "work") == b"69"
    jobs.cancel(ids[1])
    assert connection.hget(keys.load(TARGET.engine), "work") == b"46"
    assert jobs.ahead(TARGET, "normal") == (2, 46)
    assert jobs.ahead(TARGET, "high") == (0, 0)
    assert jobs.ahead(TARGET, "normal", ids[2]) == (1, 23)


def test_the_rate_of_an_owner_is_a_minutes_worth_at_once_then_an_even_pace(connection, jobs):
    limits = OrderLimits(jobs_per_minute=6)
    outcomes = jobs.enqueue([order(owner="a") for _ in range(9)], limits)
    assert [refusal(each) for each in outcomes] == [Accepted] * 6 + [RateLimited] * 3
    assert 9 < outcomes[-1].retry_after_seconds <= 10
    assert refusal(jobs.enqueue([order(owner="b")], limits)[0]) is Accepted
    until = float(connection.get("kamishibai:rate:a"))
    connection.set("kamishibai:rate:a", until - 20)  # twenty seconds later
    outcomes = jobs.enqueue([order(owner="a") for _ in range(3)], limits)
    assert [refusal(each) for each in outcomes] == [Accepted, Accepted, RateLimited]


def test_the_unfinished_jobs_of_an_owner_are_bounded_until_they_end(connection, jobs):
    limits = OrderLimits(unfinished_jobs=2)
    first, second, third = jobs.enqueue([order(owner="a") for _ in range(3)], limits)
    assert [refusal(each) for each in (first, second, third)] == [Accepted, Accepted, TooManyJobs]
    jobs.cancel(first.job_id)
    connection.delete(f"rq:job:{second.job_id}")  # as by somebody who deletes it
    outcomes = jobs.enqueue([order(owner="a") for _ in range(3)], limits)
    assert [refusal(each) for each in outcomes] == [Accepted, Accepted, TooManyJobs]
    assert refusal(jobs.enqueue([order(owner="b")], limits)[0]) is Accepted


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limits=st.builds(
        OrderLimits,
        queued_jobs=st.integers(0, 20),
        queued_work=st.integers(0, 200),
        jobs_per_minute=st.integers(0, 20),
        unfinished_jobs=st.integers(0, 20),
    ),
    sizes=st.lists(st.integers(1, 20), max_size=40),
)
def test_what_is_accepted_never_exceeds_any_limit(connection, jobs, limits, sizes):
    connection.flushall()
    orders = [order(PICTURE.model_copy(update={"count": size}), owner="a") for size in sizes]
    accepted = [each.job_id for each in jobs.enqueue(orders, limits) if isinstance(each, Accepted)]
    assert connection.llen(f"rq:queue:{TARGET.queue()}") == len(accepted)
    for most in (limits.queued_jobs, limits.jobs_per_minute, limits.unfinished_jobs):
        assert not most or len(accepted) <= most
    work = sum(size for each, size in zip(orders, sizes, strict=True) if each.job_id in accepted)
    assert not limits.queued_work or work <= max(limits.queued_work, sizes[0] if sizes else 0)
    if limits == OrderLimits():
        assert len(accepted) == len(orders)


# Lists


def test_an_owners_listed_jobs_are_paged_newest_first(connection, jobs):
    orders = [order(owner="a", listed=True) for _ in range(5)]
    ids = [outcome.job_id for part in (orders[:2], orders[2:]) for outcome in jobs.enqueue(part)]
    jobs.submit(order(owner="a"))
    jobs.submit(order(owner="b", listed=True))
    assert jobs.listed("a", None, 2) == ids[:2:-1]
    assert jobs.listed("a", ids[3], 9) == ids[2::-1]
    assert [record.id for record in jobs.read_all([*ids[:2], "gone"])] == ids[:2]
    with pytest.raises(NotFound, match="begin anew"):
        jobs.listed("a", "gone", 9)


def test_the_list_of_an_owner_whose_jobs_expire_stays_small(connection, jobs):
    for _ in range(300):
        connection.delete(f"rq:job:{jobs.submit(order(owner='a', listed=True))}")
    assert connection.zcard(keys.jobs("a")) < 30


# Many callers at once


def enqueue_together(jobs, callers):
    """Outcomes by caller, of (orders, limits) that all wait while another call to Redis is under way."""
    outcomes: dict[str, Any] = {}

    def enqueue(name, orders, limits):
        try:
            outcomes[name] = jobs.enqueue(orders, limits)
        except RedisError as error:
            outcomes[name] = error

    threads = [threading.Thread(target=enqueue, args=(name, *rest)) for name, rest in callers.items()]
    enqueuer = jobs._enqueuer
    with enqueuer._sending:
        for number, thread in enumerate(threads, 1):
            thread.start()
            while len(enqueuer._line) < number:  # in this order
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    return outcomes


def test_orders_that_go_to_redis_together_are_each_judged_by_their_own_callers_limits(connection, jobs):
    first, second, third = ([order(owner=name) for _ in range(3)] for name in ("a", "b", "c"))
    callers = {
        "free": (first, OrderLimits()),
        "few at once": (second, OrderLimits(unfinished_jobs=2)),
        "again": (first, OrderLimits()),
        "full": (third, OrderLimits(queued_jobs=6)),
    }
    connection.config_resetstat()
    outcomes = enqueue_together(jobs, callers)
    assert outcomes["free"] == [Accepted(each.job_id, repeated=False) for each in first]
    assert list(map(type, outcomes["few at once"])) == [Accepted, Accepted, TooManyJobs]
    assert outcomes["again"] == [Accepted(each.job_id, repeated=True) for each in first]
    assert list(map(type, outcomes["full"])) == [Accepted, QueueFull, QueueFull]
    waiting = [first[0], first[1], first[2], second[0], second[1], third[0]]
    queue = f"rq:queue:{TARGET.queue()}"
    assert [job_id.decode() for job_id in connection.lrange(queue, 0, -1)] == [each.job_id for each in waiting]
    assert int(connection.hget(keys.load(TARGET.engine), "work")) == 6 * PICTURE.work
    assert connection.lrange(keys.bell(TARGET.engine), 0, -1) == [b"1"]
    assert connection.info("commandstats")["cmdstat_evalsha"]["calls"] == 1


def test_more_orders_than_fit_in_one_call_go_in_several(connection, jobs):
    callers = {str(number): ([order() for _ in range(30)], OrderLimits()) for number in range(7)}
    outcomes = enqueue_together(jobs, callers)
    for name, (orders, _) in callers.items():
        assert outcomes[name] == [Accepted(each.job_id, repeated=False) for each in orders]
    assert connection.llen(f"rq:queue:{TARGET.queue()}") == 210


def test_all_who_wait_in_line_are_told_when_redis_cannot_be_reached(tmp_path):
    away = JobQueue(connect(f"unix://{tmp_path}/nobody.sock"))
    outcomes = enqueue_together(away, {str(number): ([order()], OrderLimits()) for number in range(5)})
    assert all(isinstance(outcome, RedisConnectionError) for outcome in outcomes.values())
    assert not away._enqueuer._line
