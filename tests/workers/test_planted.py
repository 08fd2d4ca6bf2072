"""What somebody who can write to Redis may plant: no pickle is opened, and no function but ours is called."""

from __future__ import annotations

import json
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.serializers import DefaultSerializer, JSONSerializer

from contracts import keys
from contracts.errors import NotFound
from contracts.orders import Order
from contracts.requests import TextRequest

LIFETIMES: dict[str, Any] = {"result_seconds": 300, "timeout_seconds": 60}


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "somebody-ran-this"


@pytest.fixture
def request_(store):
    return TextRequest(target=store.open("lstm").target(), seed=3, prompt_tokens=(4, 5), max_tokens=20)


def wait_failed(job):
    deadline = time.monotonic() + 20
    while job.get_status() != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job.latest_result().exc_string


def test_the_bomb_of_these_tests_goes_off(marker):
    DefaultSerializer.loads(DefaultSerializer.dumps(Bomb(marker)))
    assert marker.exists()


def test_a_pickled_job_fails_alone_and_unopened(start_worker, jobs, request_, connection, wait_ended, marker):
    planted = Queue(request_.target.queue(), connection=connection).enqueue("os.getcwd", Bomb(marker))
    good = jobs.submit(Order(request=request_, **LIFETIMES))
    start_worker()
    assert wait_ended(good).status == "succeeded"
    assert "not JSON of ours" in wait_failed(planted)
    with pytest.raises(NotFound):
        jobs.read(planted.id)
    assert not marker.exists()


def test_jobs_that_name_other_functions_fail_without_calling_them(start_worker, request_, connection, marker):
    queue = Queue(request_.target.queue(), connection=connection, serializer=JSONSerializer)
    planted = []
    for function in ("os.system", "pathlib.Path.touch", "workers.tasks._model", "builtins.exec", ""):
        planted.append(queue.enqueue("os.system", failure_ttl=60))
        data = JSONSerializer.dumps([function, None, [f"touch {marker}"], {}])
        connection.hset(planted[-1].key, "data", zlib.compress(data))
    start_worker()
    assert all("only workers.tasks.perform" in wait_failed(job) for job in planted)
    assert not marker.exists()


def test_pickles_beside_a_job_stay_unopened(start_worker, jobs, request_, connection, wait_ended, marker):
    bomb = DefaultSerializer.dumps(Bomb(marker))
    connection.hset(keys.worker("hostile"), "x", bomb)
    connection.hset("rq:worker:hostile", mapping={"data": bomb, "current_job": bomb})
    start_worker("victim")
    for channel in (keys.ENDED_CHANNEL, keys.DELTA_CHANNEL, "rq:pubsub:victim"):
        connection.publish(channel, bomb)
    job_id = jobs.submit(Order(request=request_, **LIFETIMES))
    connection.hset(f"rq:job:{job_id}", "meta", bomb)
    assert wait_ended(job_id).status == "succeeded"
    connection.xadd(f"rq:results:{job_id}", {"type": 1, "return_value": bomb})
    assert jobs.read(job_id).result is None
    assert jobs.read(job_id).meta.owner is None
    connection.hset(f"rq:job:{job_id}", "status", "failed")
    connection.xadd(f"rq:results:{job_id}", {"type": 2, "exc_string": bomb})
    assert json.dumps(jobs.read(job_id).error.body())
    assert not marker.exists()
