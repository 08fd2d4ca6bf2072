"""Our place on RQ's books."""

from __future__ import annotations

import threading
import time

import pytest
from redis import exceptions
from rq import Worker
from rq.command import send_stop_job_command

from contracts.connection import connect
from contracts.orders import Order
from contracts.requests import ImageRequest, Target
from workers import rq_worker
from workers.leases import Leases
from workers.rq_worker import RqRegistration

TARGET = Target(model="a", version=1, variant="pytorch:fp32")


@pytest.fixture
def register(redis_url, connection):
    registrations = []

    def register(name, on_stop=lambda _: None):
        registrations.append(RqRegistration(connect(redis_url), name, [TARGET.queue()], on_stop))
        registrations[-1].begin()
        return registrations[-1]

    yield register
    for registration in registrations:
        registration.end()


def test_a_worker_takes_the_place_of_a_killed_one_of_its_name_at_once(register, connection):
    register("worker-1")  # and never ended: it was killed
    successor = register("worker-1")
    assert [(found.name, found.pid) for found in Worker.all(connection=connection)] == [("worker-1", successor.pid)]


def test_killed_workers_do_not_stay_on_the_books_for_ever(register, connection):
    killed = register("killed")
    connection.delete(killed.key)  # as it does by itself after a while
    register("next")
    for book in ("rq:workers", f"rq:workers:{TARGET.queue()}"):
        assert connection.smembers(book) == {b"rq:worker:next"}


@pytest.mark.parametrize(
    "error", [exceptions.TimeoutError(), exceptions.ConnectionError(), exceptions.BusyLoadingError()]
)
def test_commands_are_heard_again_after_redis_was_away(register, connection, jobs, monkeypatch, error):
    monkeypatch.setattr(rq_worker, "RECONNECT_SECONDS", 0.0)
    heard = threading.Event()
    registration = register("worker-1", on_stop=lambda _: heard.set())
    failures = [error]
    receive = registration.pubsub.get_message

    def fail_first(*args, **options):
        if failures:
            raise failures.pop()
        return receive(*args, **options)

    monkeypatch.setattr(registration.pubsub, "get_message", fail_first)
    job_id = jobs.submit(
        Order(request=ImageRequest(target=TARGET, seed=1, count=1), result_seconds=60, timeout_seconds=60)
    )
    Leases(connection, "worker-1").claim({TARGET.engine: 1})
    connection.publish(registration.pubsub_channel_name, "{}")  # the thread leaves its wait and meets the failure
    while failures:
        time.sleep(0.01)
    send_stop_job_command(connection, job_id, serializer=registration.serializer)
    assert heard.wait(5)
