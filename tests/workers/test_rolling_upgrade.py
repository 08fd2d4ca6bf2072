"""Old and new workers on one queue: nobody fails, or loses an attempt of, a job that it cannot read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from contracts.announcements import read_announcements
from contracts.enqueue import JOB_FUNCTION
from contracts.orders import Order
from contracts.requests import TextRequest
from workers.local import LocalModel

LIFETIMES: dict[str, Any] = {"result_seconds": 300, "timeout_seconds": 100}


@pytest.fixture
def older_worker(redis_url, store, connection):
    """A process that reads payloads of the schema before."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("older_worker.py")), "worker", "--name", "older"]
    environment = os.environ | {"KAMISHIBAI_STORE": str(store.root), "KAMISHIBAI_REDIS_URL": redis_url}
    process = subprocess.Popen([*command, "--device", "cpu", "--models", "lstm"], env=environment)
    wait_for(lambda: any(each.ready for each in read_announcements(connection)))
    yield process
    process.send_signal(signal.SIGTERM)
    process.wait(40)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def of_first_schema(request):
    """The payload as servers wrote it before the second schema."""
    fields = (
        "task",
        "target",
        "seed",
        "prompt_tokens",
        "max_tokens",
        "temperature",
        "top_k",
        "top_p",
        "stop",
        "stream",
    )
    return request.model_dump(mode="json", include=set(fields)) | {"schema_version": 1}


@pytest.fixture
def submit(jobs, connection, store):
    bundle = store.open("lstm")

    def submit(seed, schema):
        tokens = tuple(bundle.tokenizer().encode("once upon a time"))
        request = TextRequest(target=bundle.target(), seed=seed, prompt_tokens=tokens, max_tokens=20)
        job_id = jobs.submit(Order(request=request, **LIFETIMES))
        if schema == 1:
            data = json.dumps([JOB_FUNCTION, None, [of_first_schema(request)], {}]).encode()
            connection.hset(f"rq:job:{job_id}", mapping={"data": zlib.compress(data), "meta": "{}"})
        return job_id

    return submit


def test_workers_of_two_schemas_share_a_queue(submit, connection, jobs, older_worker, start_worker, wait_ended, store):
    (announced,) = read_announcements(connection)
    assert announced.payloads == {"text:1", "image:1", "classify:1"}
    (queue,) = {jobs.read(submit(seed, schema=2)).queue for seed in range(3)}
    newer = [job_id.decode() for job_id in connection.lrange(f"rq:queue:{queue}", 0, -1)]
    older = [submit(seed, schema=1) for seed in range(3)]
    ended = [wait_ended(job_id) for job_id in older]
    time.sleep(1.5)  # longer than a worker waits between two looks at its queues
    assert [job_id.decode() for job_id in connection.lrange(f"rq:queue:{queue}", 0, -1)] == newer
    start_worker("newer", "--models", "lstm")
    mixed = [submit(seed, schema=1 + seed % 2) for seed in range(12)]
    ended += [wait_ended(job_id) for job_id in newer + mixed]
    local = LocalModel(store.open("lstm"))
    for record in ended:
        assert record.status == "succeeded", record.error
        assert record.result == local.run(record.request)
        assert connection.hget(f"rq:job:{record.id}", "retries_left") == b"3"
    assert {name_of_worker(connection, job_id) for job_id in older} == {b"older"}
    assert {name_of_worker(connection, job_id) for job_id in newer} == {b"newer"}
    assert older_worker.poll() is None


def name_of_worker(connection, job_id):
    return connection.hget(f"rq:job:{job_id}", "worker_name")
