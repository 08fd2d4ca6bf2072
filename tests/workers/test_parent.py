"""The worker as a whole: parent and engine child as real processes on a real Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from contracts import keys
from contracts.announcements import read_announcements
from contracts.orders import Order
from contracts.requests import Target

LIFETIMES: dict[str, Any] = {"result_seconds": 300, "timeout_seconds": 60}


def test_jobs_of_all_models_get_the_results_that_they_get_alone(
    start_worker, jobs, request_of, wait_ended, assert_right, connection
):
    start_worker()
    ids = [jobs.submit(Order(request=request_of(number), **LIFETIMES)) for number in range(45)]
    for job_id in ids:
        assert_right(wait_ended(job_id))
    time.sleep(0.2)
    forever = [key for key in connection.scan_iter("kamishibai:*") if connection.pttl(key) == -1]
    assert forever == [keys.WORKERS.encode()]
    assert not list(connection.scan_iter("rq:execution*"))


def test_a_waiting_worker_is_woken_by_the_bell(start_worker, jobs, request_of, wait_ended):
    start_worker()
    time.sleep(0.5)
    times = []
    for number in (0, 3, 6, 9, 12):
        started = time.monotonic()
        wait_ended(jobs.submit(Order(request=request_of(number), **LIFETIMES)))
        times.append(time.monotonic() - started)
        time.sleep(0.1)
    assert sorted(times)[2] < 0.5, "the poll alone takes up to a second"


def test_streamed_text_is_appended_once_and_published(start_worker, jobs, request_of, wait_ended, connection):
    start_worker()
    subscription = connection.pubsub()
    subscription.subscribe(keys.DELTA_CHANNEL)
    assert subscription.get_message(timeout=1)
    job_id = jobs.submit(Order(request=request_of(0, stream=True, max_tokens=300, n=2), **LIFETIMES))
    record = wait_ended(job_id)
    texts = [b"", b""]
    while message := subscription.get_message(timeout=0.2):
        for published_id, choice, offset, part in json.loads(message["data"]):
            assert published_id == job_id
            assert offset == len(texts[choice])
            texts[choice] += part.encode()
    for choice, text in enumerate(texts):
        assert text
        assert record.result.choices[choice].text.encode().startswith(text)
        assert jobs.text_from(job_id, choice, 0).encode() == text
        assert 0 < connection.ttl(keys.text(job_id, choice)) <= 300
    subscription.close()


def test_a_dead_engine_child_is_replaced_and_its_jobs_start_again(
    start_worker, jobs, request_of, wait_ended, assert_right
):
    parent = start_worker()
    ids = [jobs.submit(Order(request=request_of(number, max_tokens=200), **LIFETIMES)) for number in range(0, 30, 3)]
    time.sleep(0.1)
    for child in psutil.Process(parent.pid).children():
        child.send_signal(signal.SIGKILL)
    for job_id in ids:
        assert_right(wait_ended(job_id))
    assert parent.poll() is None


def test_jobs_of_a_killed_worker_run_elsewhere_with_the_same_results(
    start_worker, jobs, request_of, wait_ended, assert_right, connection
):
    first = start_worker("first")
    ids = [jobs.submit(Order(request=request_of(3 * number, max_tokens=1500), **LIFETIMES)) for number in range(6)]
    while not connection.zcard(f"rq:wip:{request_of(0).target.queue()}"):
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    killed_at = time.time()
    start_worker("second")
    for job_id in ids:
        record = wait_ended(job_id, 120)
        assert_right(record)
        assert record.started_at - killed_at < 30, "run elsewhere"


def test_a_worker_that_lost_its_lease_cannot_complete_the_job(jobs, request_of, connection):
    from workers.leases import Ending, Leases

    job_id = jobs.submit(Order(request=request_of(0), **LIFETIMES))
    queue = request_of(0).target.queue()
    late, other = Leases(connection, "late"), Leases(connection, "other")
    (lease,) = late.claim({request_of(0).target.engine: 1})
    connection.zadd(f"rq:wip:{queue}", {f"{job_id}:{lease.execution_id}": 1})
    assert late.recover() == (1, 0)
    (second,) = other.claim({request_of(0).target.engine: 1})
    assert late.publish([(lease, 0, 0, "x")]) == {lease.execution_id}
    assert late.renew([lease]) == {lease.execution_id}
    from contracts.results import Choice, TextResult

    result = TextResult(choices=[Choice(text="late", finish_reason="stop", tokens=1)], prompt_tokens=1)
    right = TextResult(choices=[Choice(text="right", finish_reason="stop", tokens=1)], prompt_tokens=1)
    assert late.complete([Ending(lease, "finished", result=result)])[0] == {lease.execution_id}
    assert jobs.read(job_id).status == "running"
    other.complete([Ending(second, "finished", result=right)])
    assert jobs.read(job_id).result == right
    assert connection.xlen(f"rq:results:{job_id}") == 1


def test_a_job_without_attempts_left_fails_and_says_why(jobs, request_of, connection):
    from workers.leases import Leases

    job_id = jobs.submit(Order(request=request_of(0), **LIFETIMES))
    queue = request_of(0).target.queue()
    leases = Leases(connection, "worker")
    for attempt in range(4):
        (lease,) = leases.claim({request_of(0).target.engine: 1})
        connection.zadd(f"rq:wip:{queue}", {f"{job_id}:{lease.execution_id}": 1})
        connection.delete(keys.JANITOR)
        assert leases.recover() == ((1, 0) if attempt < 3 else (0, 1))
    record = jobs.read(job_id)
    assert record.status == "failed"
    assert record.error.code == "worker_lost"
    assert 0 < connection.ttl(f"rq:job:{job_id}") <= 300


def test_cancelling_works_on_queued_and_on_running_jobs(start_worker, jobs, request_of, wait_ended, connection):
    queued = jobs.submit(Order(request=request_of(0), **LIFETIMES))
    assert jobs.cancel(queued)
    start_worker()
    running = jobs.submit(Order(request=request_of(0, max_tokens=4000), **LIFETIMES))
    while jobs.read(running).status == "queued":
        time.sleep(0.01)
    assert jobs.cancel(running)
    assert not jobs.cancel(running)
    assert [jobs.read(job_id).status for job_id in (queued, running)] == ["cancelled", "cancelled"]
    assert not connection.zcard(f"rq:wip:{request_of(0).target.queue()}")


def test_rqs_own_stop_command_stops_a_running_job(start_worker, jobs, request_of, wait_ended, connection):
    start_worker()
    job_id = jobs.submit(Order(request=request_of(0, max_tokens=4000), **LIFETIMES))
    while jobs.read(job_id).status == "queued":
        time.sleep(0.01)
    send_stop_job_command(connection, job_id, serializer=JSONSerializer)
    assert wait_ended(job_id, 10).status == "cancelled"


def test_sigterm_drains_what_runs_and_leaves_the_rest(
    start_worker, jobs, request_of, wait_ended, assert_right, connection
):
    worker = start_worker()
    ids = [jobs.submit(Order(request=request_of(3 * n, max_tokens=300), **LIFETIMES)) for n in range(80)]
    while jobs.read(ids[0]).status == "queued":
        time.sleep(0.01)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(40) == 0
    statuses = [jobs.read(job_id).status for job_id in ids]
    assert set(statuses) == {"succeeded", "queued"}
    assert statuses == sorted(statuses, reverse=True), "first come, first served"
    assert_right(jobs.read(ids[0]))
    assert not connection.exists(keys.worker("worker"))
    start_worker("next")
    assert_right(wait_ended(ids[-1]))


def test_a_payload_that_is_not_ours_fails_alone(start_worker, jobs, request_of, wait_ended, connection):
    from rq import Queue

    queue = Queue(request_of(0).target.queue(), connection=connection, serializer=JSONSerializer)
    planted = queue.enqueue("os.system", "touch /tmp/planted", job_id="planted", failure_ttl=60)
    start_worker()
    good = wait_ended(jobs.submit(Order(request=request_of(0), **LIFETIMES)))
    assert good.status == "succeeded"
    deadline = time.monotonic() + 10
    while planted.get_status() != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    result = planted.latest_result()
    assert result is not None
    assert "only workers.tasks.perform" in (result.exc_string or "")


def test_a_stock_rq_worker_runs_the_same_jobs(jobs, request_of, wait_ended, assert_right, redis_url, store):
    ids = [jobs.submit(Order(request=request_of(number), **LIFETIMES)) for number in range(6)]
    queues = sorted({request_of(number).target.queue() for number in range(3)})
    environment = os.environ | {"KAMISHIBAI_STORE": str(store.root)}
    command = [sys.executable, "-P", "-m", "rq.cli", "worker", *queues, "--burst", "--serializer", "json", "-q"]
    command += ["--url", redis_url, "--worker-class", "rq.SimpleWorker"]
    subprocess.run(command, env=environment, check=True, timeout=120)
    for job_id in ids:
        assert_right(wait_ended(job_id, 1))


def test_rq_info_tells_the_truth(start_worker, jobs, request_of, redis_url):
    start_worker("teller")

    def info() -> str:
        command = [sys.executable, "-P", "-m", "rq.cli", "info", "--raw", "--url", redis_url]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    assert "worker teller" in info()
    assert " idle " in info()
    job_id = jobs.submit(Order(request=request_of(0, max_tokens=4000), **LIFETIMES))
    deadline = time.monotonic() + 10
    while " busy " not in info():
        assert time.monotonic() < deadline
    jobs.cancel(job_id)


def test_a_model_whose_cache_does_not_fit_is_refused_by_the_bytes_it_needs_and_the_others_are_served(
    start_worker, jobs, request_of, wait_ended, assert_right, connection, capfd
):
    start_worker("small", "--kv-memory", "500KB")
    (announced,) = read_announcements(connection)
    assert [model.target.model for model in announced.models] == ["faces", "lstm"]
    ids = {number: jobs.submit(Order(request=request_of(number), **LIFETIMES)) for number in range(6)}
    for number, job_id in ids.items():
        if request_of(number).target.model != "gpt2":
            assert_right(wait_ended(job_id))
    assert {jobs.read(ids[number]).status for number in (1, 4)} == {"queued"}, "they wait for a worker with more memory"
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "is not served" in line]
    assert "gpt2@1" in line
    assert "500,000 bytes has no room for 4 texts of 131,072 bytes each" in line
    assert "give at least 524,288 with --kv-memory" in line


def test_an_unknown_target_waits_on_its_queue(start_worker, jobs, request_of):
    start_worker()
    target = Target(model="lstm", version=99, variant="pytorch:fp32")
    job_id = jobs.submit(Order(request=request_of(0).model_copy(update={"target": target}), **LIFETIMES))
    time.sleep(1.5)
    assert jobs.read(job_id).status == "queued"


def test_a_running_job_is_stopped_at_its_deadline_and_expires(jobs, start_worker, request_of, wait_ended, assert_right):
    start_worker()
    wait_ended(jobs.submit(Order(request=request_of(0), **LIFETIMES)))
    slow = Order(request=request_of(0, max_tokens=4000, n=16, stop=()), deadline=time.time() + 1, **LIFETIMES)
    good = Order(request=request_of(3), deadline=time.time() + 60, priority="low", **LIFETIMES)
    jobs.enqueue([slow, good])
    record = wait_ended(slow.job_id)
    assert (record.status, record.error.code) == ("expired", "expired")
    assert record.started_at is not None
    assert 0.9 < record.ended_at - record.created_at < 1 + 2
    assert_right(wait_ended(good.job_id))


def test_a_worker_announces_how_fast_its_queue_drains(connection, jobs, start_worker, request_of, wait_ended):
    start_worker()
    for number in (0, 3, 6):
        wait_ended(jobs.submit(Order(request=request_of(number), **LIFETIMES)))
    request = request_of(0)
    deadline = time.monotonic() + 10
    while True:
        (announcement,) = read_announcements(connection)
        (counters,) = (each.counters for each in announcement.models if each.target == request.target)
        if counters.work_per_second and counters.seconds_per_work:
            return
        assert time.monotonic() < deadline, "it is not announced"
        time.sleep(0.1)
