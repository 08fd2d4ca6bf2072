"""A real worker whose real engine child dies, hangs, raises or runs out of memory on certain requests."""

from __future__ import annotations

import json
import math
import shutil
import time

import psutil
import pytest

from contracts import keys
from contracts.bundle import WEIGHTS
from contracts.jobs import JobQueue
from contracts.orders import Order

POISON = 12  # the number, and so the seed, of a request for lstm


@pytest.fixture
def enqueue(jobs: JobQueue, request_of):
    """Put requests by number onto their queues; returns the ids by number."""

    def enqueue(numbers, **changes):
        return {
            number: jobs.submit(Order(request=request_of(number, **changes), result_seconds=300, timeout_seconds=200))
            for number in numbers
        }

    return enqueue


def struck(log):
    """By fault: the seeds that ran in the engine when it happened."""
    return [[int(seed) for seed in line.split()[1:]] for line in log.read_text().splitlines()]


def test_a_request_that_kills_the_engine_fails_alone_and_all_others_finish(
    start_worker, faults, enqueue, wait_ended, assert_right, tmp_path
):
    ids = enqueue(range(24))
    log = tmp_path / "log"
    start_worker(environment=faults({"seed": POISON, "kind": "die", "log": str(log)}))
    failed = wait_ended(ids.pop(POISON), 200)
    assert failed.status == "failed"
    assert failed.error.code == "engine_failed"
    assert failed.error.message == "The engine died 3 times while it ran this request alone."
    for job_id in ids.values():
        assert_right(wait_ended(job_id))
    assert struck(log)[-3:] == [[POISON]] * 3
    assert len(struck(log)) <= math.ceil(math.log2(24)) + 3


def test_jobs_that_come_while_suspects_are_tried_do_not_wait_for_the_verdict(
    start_worker, faults, enqueue, wait_ended, assert_right, tmp_path
):
    (poison,) = enqueue([POISON]).values()
    log = tmp_path / "log"
    start_worker(environment=faults({"seed": POISON, "kind": "die", "log": str(log)}))
    while not log.exists() or len(struck(log)) < 2:
        time.sleep(0.05)
    others = [wait_ended(job_id) for job_id in enqueue([1, 2, 3]).values()]
    verdict = wait_ended(poison, 100)
    assert verdict.error.code == "engine_failed"
    for other in others:
        assert_right(other)
        assert other.ended_at < verdict.ended_at


def test_a_request_that_makes_a_call_raise_fails_alone_without_a_new_process(
    start_worker, faults, enqueue, wait_ended, assert_right, tmp_path, capfd
):
    ids = enqueue([*range(24), 60])
    log = tmp_path / "log"
    fault = {"kind": "raise", "log": str(log)}
    start_worker(environment=faults(fault | {"seed": POISON}, fault | {"seed": 11}))  # a text, and a picture
    for number in (POISON, 11):
        failed = wait_ended(ids.pop(number))
        assert failed.status == "failed"
        assert failed.error.code == "engine_failed"
        assert failed.error.message.startswith("The engine failed on this request: RuntimeError: a fault")
    for job_id in ids.values():
        assert_right(wait_ended(job_id))
    assert [POISON] in struck(log)
    assert [11] in struck(log)
    assert capfd.readouterr().err.count("engine child") == 1, "it was started once"


@pytest.mark.parametrize("kind", ["hang", "stop"])
def test_an_engine_that_stands_still_with_work_is_replaced(
    start_worker, faults, enqueue, wait_ended, assert_right, tmp_path, kind
):
    ids = enqueue([*range(6), POISON], max_tokens=200)
    fault = {"seed": POISON, "kind": kind, "times": 1, "log": str(tmp_path / "log")}
    start_worker(environment=faults(fault) | {"KAMISHIBAI_STEP_SECONDS": "3"})
    begin = time.monotonic()
    for job_id in ids.values():
        assert_right(wait_ended(job_id))
    assert time.monotonic() - begin < 3 + 20, "the budget, a new child, and the run"
    assert len(struck(tmp_path / "log")) == 1


def test_a_child_that_hangs_while_it_loads_is_replaced_and_an_idle_one_is_left_alone(start_worker, capfd):
    worker = start_worker(environment={"KAMISHIBAI_LOAD_SECONDS": "0.5"}, wait=False)
    said = ""
    deadline = time.monotonic() + 20
    while said.count("is silent") < 2:
        assert time.monotonic() < deadline
        said += capfd.readouterr().err
        time.sleep(0.1)
    worker.terminate()
    start_worker("idle", environment={"KAMISHIBAI_STEP_SECONDS": "0.5"})
    capfd.readouterr()
    time.sleep(3)
    assert "is silent" not in capfd.readouterr().err


def test_a_stream_stays_one_unbroken_text_when_its_engine_dies(
    start_worker, faults, enqueue, wait_ended, assert_right, connection, jobs, tmp_path
):
    fault = {"seed": POISON, "kind": "die", "calls": 8, "times": 2, "log": str(tmp_path / "log")}
    subscription = connection.pubsub()
    subscription.subscribe(keys.DELTA_CHANNEL)
    assert subscription.get_message(timeout=1)
    ids = enqueue([POISON, 24], stream=True, max_tokens=2000, n=2, stop=(), echo=True)
    start_worker(environment=faults(fault))
    for job_id in ids.values():
        assert_right(wait_ended(job_id))
    texts = {(job_id, choice): b"" for job_id in ids.values() for choice in range(2)}
    while message := subscription.get_message(timeout=0.2):
        for job_id, choice, offset, part in json.loads(message["data"]):
            assert offset == len(texts[job_id, choice]), "nothing twice, nothing missing"
            texts[job_id, choice] += part.encode()
    for (job_id, choice), text in texts.items():
        whole = jobs.read(job_id).result.choices[choice].text.encode()
        assert whole.startswith(text)
        assert len(text) > len(whole) * 0.9
    assert len(struck(tmp_path / "log")) == 2
    subscription.close()


def test_suspects_that_wait_can_be_cancelled_and_time_out_and_hold_their_leases(
    start_worker, faults, enqueue, wait_ended, jobs, request_of, connection, tmp_path
):
    log = tmp_path / "log"
    ids = enqueue([POISON, 0, 3, 6], max_tokens=2500)
    late = jobs.submit(Order(request=request_of(9, max_tokens=2500), result_seconds=300, timeout_seconds=8))
    # Not at its first call: those that are tried with it come one after the other.
    fault = {"seed": POISON, "kind": "hang", "calls": 8, "log": str(log)}
    start_worker(environment=faults(fault) | {"KAMISHIBAI_STEP_SECONDS": "5"})
    while not log.exists() or len(struck(log)) < 2:  # the first half, with the poison, is on trial and hangs
        time.sleep(0.05)
    newcomer = enqueue([15])[15]
    assert struck(log)[1] == [POISON, 0, 3]
    assert jobs.cancel(ids[6])
    assert jobs.cancel(ids[POISON])
    assert wait_ended(late, 10).error.code == "timeout"
    assert jobs.read(newcomer).status == "queued", "nobody new is let in while suspects are tried"
    for job_id in (ids[0], ids[3], newcomer):
        assert wait_ended(job_id).status == "succeeded"
    queue = request_of(0).target.queue()
    deadline = time.monotonic() + 5
    while connection.zcard(f"rq:wip:{queue}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    retries = {connection.hget(f"rq:job:{job_id}", "retries_left") for job_id in (*ids.values(), newcomer)}
    assert retries == {b"3"}, "no lease was lost"


def test_memory_for_few_rows_is_enough_for_all_and_changes_no_result(
    start_worker, faults, enqueue, wait_ended, assert_right, capfd
):
    ids = enqueue(range(40))
    start_worker(environment=faults({"kind": "memory", "rows": 5}))
    for job_id in ids.values():
        assert_right(wait_ended(job_id))
    assert capfd.readouterr().err.count("engine child") == 1, "no child died"


def test_jobs_of_a_model_that_a_new_child_cannot_load_go_back_to_their_queue(
    start_worker, enqueue, wait_ended, assert_right, store, jobs, connection, tmp_path
):
    own = shutil.copytree(store.root, tmp_path / "store")
    worker = start_worker("worker", "--store", str(own))
    children = psutil.Process(worker.pid).children()
    for child in children:
        child.suspend()  # or a text could have ended before the next one begins
    ids = enqueue([0, 1], max_tokens=250, n=2, stop=(), ignore_eos=True, echo=False, num_beams=1)
    ids |= enqueue([3], max_tokens=3000)
    while {jobs.read(job_id).status for job_id in ids.values()} != {"running"}:
        time.sleep(0.01)
    (own / "gpt2" / "1" / WEIGHTS).write_bytes(b"worn out")
    for child in children:
        child.kill()
    for number in (0, 3):
        assert_right(wait_ended(ids[number]))
    assert jobs.read(ids[1]).status == "queued", "another worker may be able to"
    assert connection.hget(f"rq:job:{ids[1]}", "retries_left") == b"3"
