"""The doorbell: wakes for the queues that it is armed for, and leaves the other bells alone."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest
from redis.exceptions import RedisError

from contracts import keys
from contracts.connection import connect
from contracts.jobs import JobQueue
from contracts.orders import Order
from contracts.requests import ImageRequest, Target
from workers.doorbell import Doorbell
from workers.embedded_redis import EmbeddedRedis


class Listener:
    """A doorbell and how often it has rung."""

    def __init__(self, url: str) -> None:
        self.rings = threading.Semaphore(0)
        self.bell = Doorbell(connect(url), self.rings.release)

    def rang(self, seconds: float = 5) -> bool:
        return self.rings.acquire(timeout=seconds)


@pytest.fixture
def listener(redis_url, connection):
    listener = Listener(redis_url)
    yield listener
    listener.bell.arm([])


@pytest.mark.parametrize("queue", ["a", "b"])
def test_it_rings_for_any_of_its_queues_once_per_arming(listener, connection, queue):
    listener.bell.arm(["a", "b"])
    connection.rpush(keys.bell(queue), "1")
    assert listener.rang()
    connection.rpush(keys.bell(queue), "1")
    assert not listener.rang(0.3), "it is not armed any more"
    assert connection.llen(keys.bell(queue)) == 1
    listener.bell.arm([queue])
    assert listener.rang(), "a token that lay there already"
    assert not connection.exists(keys.bell(queue))


def test_it_is_rung_by_a_new_job(listener, connection):
    request = ImageRequest(target=Target(model="m", version=1, variant="v"), seed=1, count=1)
    listener.bell.arm([request.target.engine])
    time.sleep(0.1)
    JobQueue(connection).submit(Order(request=request, result_seconds=10, timeout_seconds=10))
    assert listener.rang()


def test_it_leaves_the_bells_of_other_queues_to_others(listener, connection):
    connection.rpush(keys.bell("b"), "1")
    listener.bell.arm(["a"])
    assert not listener.rang(0.3)
    assert connection.llen(keys.bell("b")) == 1


def test_disarmed_it_takes_no_token(listener, connection):
    listener.bell.arm(["a"])
    listener.bell.arm([])
    time.sleep(1.3)  # a wait that had begun lasts a second
    connection.rpush(keys.bell("a"), "1")
    assert not listener.rang(0.3)
    assert connection.llen(keys.bell("a")) == 1


def test_it_survives_redis_being_away(tmp_path):
    embedded = EmbeddedRedis(tmp_path)
    listener = Listener(embedded.url)
    listener.bell.arm(["a"])
    time.sleep(0.2)
    connection = connect(embedded.url)
    for _ in range(2):
        server = subprocess.Popen(embedded.command(), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                connection.rpush(keys.bell("a"), "1")
                break
            except RedisError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert listener.rang()
        listener.bell.arm(["a"])
        time.sleep(0.1)
        server.kill()
        server.wait()
    listener.bell.arm([])
    connection.close()
    embedded.clean_up()
