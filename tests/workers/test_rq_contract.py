"""RQ's books after a job of ours are those that RQ's own worker leaves."""

from __future__ import annotations

from typing import Any

import pytest
from rq import SimpleWorker
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from contracts.errors import EngineFailed
from contracts.orders import Order
from contracts.requests import ImageRequest
from contracts.results import ImageResult
from workers.leases import Ending, Leases
from workers.rq_worker import RqRegistration

LIFETIMES: dict[str, Any] = {"result_seconds": 120, "timeout_seconds": 60}


@pytest.fixture
def request_(store):
    return ImageRequest(target=store.open("faces").target(), seed=5, count=1)


def books(connection, job_id):
    """Keys, types, lifetimes, hash fields and stream entries of everything in Redis, ids and times taken out."""
    found = {}
    for key in sorted(connection.scan_iter("rq:*")):
        name = key.decode().replace(job_id, "<job>")
        kind = connection.type(key).decode()
        content: object = None
        if kind == "hash":
            content = {field.decode() for field in connection.hkeys(key)}
        elif kind == "stream":
            content = [{field.decode() for field in entry} for _, entry in connection.xrange(key)]
        elif kind == "zset":
            content = [member.decode().replace(job_id, "<job>") for member in connection.zrange(key, 0, -1)]
        found[name] = (kind, round(connection.ttl(key), -1), content)  # time passes
    return found


def run_stock(connection, jobs, request_, monkeypatch, store):
    monkeypatch.setenv("KAMISHIBAI_STORE", str(store.root))
    job_id = jobs.submit(Order(request=request_, **LIFETIMES))
    connection.hset(f"rq:job:{job_id}", "retries_left", 0)  # a stock worker would retry a failure
    worker = SimpleWorker([request_.target.queue()], name="same", connection=connection, serializer=JSONSerializer)
    worker.log_result_lifespan = False
    worker.work(burst=True, logging_level="ERROR")
    return job_id


def run_ours(connection, jobs, request_, outcome="finished"):
    job_id = jobs.submit(Order(request=request_, **LIFETIMES))
    connection.hset(f"rq:job:{job_id}", "retries_left", 0)
    registration = RqRegistration(connection, "same", [request_.target.queue()], lambda _: None)
    registration.begin()
    leases = Leases(connection, "same")
    (lease,) = leases.claim({request_.target.engine: 4})
    registration.beat(job_id)
    leases.renew([lease])
    result = ImageResult(count=1, pictures=["x"])
    error = EngineFailed("it broke") if outcome == "failed" else None
    leases.complete([Ending(lease, outcome, result=None if error else result, error=error)])
    registration.beat(None)
    registration.end()
    return job_id


# What a stock worker notes of itself while it runs jobs one by one; it is about the worker, not about the job.
WORKER_FIELDS = {"current_job_working_time", "shutdown_requested_date"}


def without_worker(found):
    kept = {name: value for name, value in found.items() if not name.startswith("rq:worker:")}
    kind, _, fields = found["rq:worker:same"]
    return kept | {"rq:worker:same": (kind, fields - WORKER_FIELDS)}


def test_a_success_leaves_the_keys_types_fields_and_lifetimes_of_a_stock_worker(
    connection, jobs, request_, monkeypatch, store
):
    stock = books(connection, run_stock(connection, jobs, request_, monkeypatch, store))
    connection.flushall()
    ours = books(connection, run_ours(connection, jobs, request_))
    assert without_worker(ours) == without_worker(stock)


def test_a_failure_leaves_the_keys_types_and_fields_of_a_stock_worker(connection, jobs, request_, monkeypatch, store):
    broken = request_.model_copy(update={"target": request_.target.model_copy(update={"version": 77})})
    stock = books(connection, run_stock(connection, jobs, broken, monkeypatch, store))
    connection.flushall()
    ours = books(connection, run_ours(connection, jobs, broken, "failed"))
    assert without_worker(ours) == without_worker(stock)


def test_rq_itself_can_read_what_we_leave(connection, jobs, request_):
    finished = Job.fetch(run_ours(connection, jobs, request_), connection=connection, serializer=JSONSerializer)
    assert finished.get_status() == "finished"
    assert finished.return_value() == {"task": "image", "count": 1, "fingerprint": "", "pictures": ["x"]}
    assert finished.started_at is not None
    assert finished.ended_at is not None
    assert finished.started_at <= finished.ended_at
    failed = Job.fetch(run_ours(connection, jobs, request_, "failed"), connection=connection, serializer=JSONSerializer)
    assert failed.get_status() == "failed"
    result = failed.latest_result()
    assert result is not None
    assert "it broke" in (result.exc_string or "")
    name = request_.target.queue()
    registries = [
        registry(name, connection=connection, serializer=JSONSerializer).get_job_ids()
        for registry in (FinishedJobRegistry, FailedJobRegistry, StartedJobRegistry)
    ]
    assert registries == [[finished.id], [failed.id], []]


def test_a_cleanup_by_rqs_own_tools_costs_one_attempt_and_no_job(connection, jobs, request_):
    job_id = jobs.submit(Order(request=request_, **LIFETIMES))
    name = request_.target.queue()
    leases = Leases(connection, "worker")
    (lease,) = leases.claim({request_.target.engine: 1})
    connection.zadd(f"rq:wip:{name}", {f"{job_id}:{lease.execution_id}": 1})
    assert StartedJobRegistry(name, connection=connection, serializer=JSONSerializer).count == 0  # runs RQ's cleanup
    assert connection.hget(f"rq:job:{job_id}", "retries_left") == b"2"
    (again,) = leases.claim({request_.target.engine: 1})
    assert again.job_id == job_id
    result = ImageResult(count=1, pictures=["x"])
    assert leases.complete([Ending(lease, "finished", result=result)])[0] == {lease.execution_id}
    assert leases.complete([Ending(again, "finished", result=result)]) == (set(), set())


def test_dependents_of_other_tools_are_enqueued(connection, jobs, request_):
    from rq import Queue

    job_id = jobs.submit(Order(request=request_, **LIFETIMES))
    other = Queue("other", connection=connection, serializer=JSONSerializer)
    dependent = other.enqueue("json.dumps", 1, depends_on=job_id)
    leases = Leases(connection, "worker")
    (lease,) = leases.claim({request_.target.engine: 1})
    _, dependents = leases.complete([Ending(lease, "finished", result=ImageResult(count=1, pictures=["x"]))])
    assert dependents == {lease.execution_id}
    registration = RqRegistration(connection, "worker", [request_.target.queue()], lambda _: None)
    registration.enqueue_dependents(job_id, request_.target.queue())
    assert other.job_ids == [dependent.id]


def test_timestamps_of_our_scripts_are_rqs(connection, jobs, request_):
    from datetime import UTC, datetime

    job_id = run_ours(connection, jobs, request_)
    fields = connection.hgetall(f"rq:job:{job_id}")
    for name in (b"started_at", b"ended_at", b"last_heartbeat"):
        written = datetime.strptime(fields[name].decode(), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        assert abs((datetime.now(UTC) - written).total_seconds()) < 5
