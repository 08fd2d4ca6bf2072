"""Redis stands still or dies, workers are stopped: nothing accepted is lost, and nothing is done twice needlessly."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import Any

import psutil
import pytest
from redis.exceptions import RedisError
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation
from rq.serializers import JSONSerializer

from contracts.announcements import read_announcements
from contracts.connection import connect
from contracts.jobs import JobQueue
from contracts.orders import Order
from workers.embedded_redis import EmbeddedRedis
from workers.leases import LEASE_SECONDS

LIFETIMES: dict[str, Any] = {"result_seconds": 300, "timeout_seconds": 200}


class OwnRedis:
    """A server that can be stopped and killed, on data of its own."""

    def __init__(self, folder) -> None:
        self._embedded = EmbeddedRedis(folder)
        self.url = self._embedded.url
        self.client = connect(self.url)
        self.jobs = JobQueue(self.client)

    def start(self) -> None:
        self.process = subprocess.Popen(self._embedded.command(), stdout=subprocess.DEVNULL)
        self.wait_until(lambda: self.client.ping(), 10)

    def wait_until(self, condition, seconds) -> None:
        """An error of Redis is a no."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except RedisError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait_ended(self, job_id, seconds=100):
        self.wait_until(lambda: self.jobs.read(job_id).ended, seconds)
        return self.jobs.read(job_id)

    def wait_ready(self, worker) -> None:
        self.wait_until(lambda: any(a.ready and a.worker == worker for a in read_announcements(self.client)), 60)

    def results(self, job_id) -> list[str]:
        """Which workers wrote a result of it."""
        entries: Any = self.client.xrange(f"rq:results:{job_id}")
        return [fields[b"worker_name"].decode() for _, fields in entries]

    def attempts_left(self, job_id) -> int:
        return int(self.client.hget(f"rq:job:{job_id}", "retries_left") or -1)

    def end(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self._embedded.clean_up()


@pytest.fixture
def redis(tmp_path):
    own = OwnRedis(tmp_path)
    own.start()
    yield own
    own.end()


@pytest.fixture
def start(start_worker, redis):
    def start(name):
        process = start_worker(name, environment={"KAMISHIBAI_REDIS_URL": redis.url}, wait=False)
        redis.wait_ready(name)
        return process

    return start


@pytest.mark.parametrize("kind", ["stands still", "dies and comes back"])
def test_redis_away_for_longer_than_a_lease_costs_no_job_and_no_attempt(
    start, redis, request_of, assert_right, capfd, kind
):
    workers = [start("one"), start("two")]
    ids = [
        redis.jobs.submit(Order(request=request_of(3 * n, max_tokens=(50, 2000)[n % 2]), **LIFETIMES))
        for n in range(24)
    ]
    ids += [
        redis.jobs.submit(Order(request=request_of(n), **LIFETIMES)) for n in range(150)
    ]  # more than can be claimed at once
    time.sleep(0.3)
    if kind == "stands still":
        redis.process.send_signal(signal.SIGSTOP)
        time.sleep(LEASE_SECONDS + 4)
        redis.process.send_signal(signal.SIGCONT)
    else:
        redis.process.kill()
        redis.process.wait()
        time.sleep(LEASE_SECONDS + 4)
        redis.start()
    for job_id in ids:
        assert_right(redis.wait_ended(job_id), redis.jobs)
        assert len(redis.results(job_id)) == 1
        assert redis.attempts_left(job_id) == 3, "no lease was lost for it"
    assert [worker.poll() for worker in workers] == [None, None]
    said = capfd.readouterr().err
    assert said.count("Redis cannot be reached") == said.count("Redis is back after") == 2, "each worker says it once"
    assert "Traceback" not in said
    assert_right(redis.wait_ended(redis.jobs.submit(Order(request=request_of(0), **LIFETIMES)), 10))


def test_a_stop_is_heard_after_redis_was_away(start, redis, request_of):
    start("one")
    redis.process.send_signal(signal.SIGSTOP)
    time.sleep(7)
    redis.process.send_signal(signal.SIGCONT)
    job_id = redis.jobs.submit(Order(request=request_of(0, max_tokens=4000), **LIFETIMES))
    redis.wait_until(lambda: redis.jobs.read(job_id).status == "running", 20)
    deadline = time.monotonic() + 10
    while not redis.jobs.read(job_id).ended and time.monotonic() < deadline:
        with suppress(InvalidJobOperation):  # it has just ended
            send_stop_job_command(redis.client, job_id, serializer=JSONSerializer)
        time.sleep(0.5)
    assert redis.jobs.read(job_id).status == "cancelled"


def test_a_worker_stopped_past_its_lease_can_no_longer_complete_its_jobs(start, redis, request_of, assert_right):
    first = start("first")
    ids = [
        redis.jobs.submit(Order(request=request_of(3 * number, max_tokens=3000), **LIFETIMES)) for number in range(6)
    ]
    redis.wait_until(lambda: redis.jobs.read(ids[-1]).status == "running", 10)
    first.send_signal(signal.SIGSTOP)  # its engine child goes on
    start("second")
    for job_id in ids:
        assert_right(redis.wait_ended(job_id))
    first.send_signal(signal.SIGCONT)
    time.sleep(3)
    for job_id in ids:
        assert redis.results(job_id) == ["second"]
        assert redis.attempts_left(job_id) == 2
    again = [redis.jobs.submit(Order(request=request_of(number), **LIFETIMES)) for number in range(100)]
    assert {redis.results(redis.wait_ended(job_id).id)[0] for job_id in again} == {"first", "second"}


def test_sigterm_to_the_whole_group_drains(start, redis, request_of, assert_right):
    worker = start("one")
    ids = [
        redis.jobs.submit(Order(request=request_of(3 * number, max_tokens=1000), **LIFETIMES)) for number in range(6)
    ]
    redis.wait_until(lambda: redis.jobs.read(ids[-1]).status == "running", 10)
    os.killpg(worker.pid, signal.SIGTERM)
    assert worker.wait(40) == 0
    for job_id in ids:
        assert_right(redis.jobs.read(job_id))


def test_a_second_sigterm_gives_everything_back_at_once(start, redis, request_of):
    worker = start("one")
    (child,) = psutil.Process(worker.pid).children()
    ids = [
        redis.jobs.submit(Order(request=request_of(3 * number, max_tokens=4000, stop=()), **LIFETIMES))
        for number in range(6)
    ]
    redis.wait_until(lambda: redis.jobs.read(ids[-1]).status == "running", 10)
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert worker.poll() is None, "it drains"
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(3) == 0
    assert not psutil.pid_exists(child.pid)
    assert [redis.jobs.read(job_id).status for job_id in ids] == ["queued"] * 6
    assert [redis.attempts_left(job_id) for job_id in ids] == [3] * 6


def test_a_worker_waits_for_a_redis_that_comes_later_and_can_be_told_to_stop_meanwhile(
    start_worker, redis, request_of, assert_right
):
    redis.process.send_signal(signal.SIGSTOP)
    other = {"KAMISHIBAI_REDIS_URL": redis.url.replace(".sock", ".nobody")}
    in_vain = start_worker("in vain", environment=other, wait=False)
    patient = start_worker("patient", environment={"KAMISHIBAI_REDIS_URL": redis.url}, wait=False)
    time.sleep(8)
    assert [in_vain.poll(), patient.poll()] == [None, None]
    in_vain.send_signal(signal.SIGTERM)
    assert in_vain.wait(5) == 0
    redis.process.send_signal(signal.SIGCONT)
    redis.wait_ready("patient")
    assert_right(redis.wait_ended(redis.jobs.submit(Order(request=request_of(0), **LIFETIMES))))
