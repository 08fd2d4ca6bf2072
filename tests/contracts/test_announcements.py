"""Announcements: counters, lifetimes, and junk that others left."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts import keys
from contracts.announcements import (
    Announcement,
    EngineCounters,
    Histogram,
    ServedModel,
    announce,
    read_announcements,
    withdraw,
)
from contracts.requests import Target


def announcement(worker: str) -> Announcement:
    served = ServedModel(
        target=Target(model="m", version=1, variant="pytorch:fp32"),
        task="text",
        digest="0" * 64,
        counters=EngineCounters(
            units=30, jobs={"finished": 2}, histograms={"call_seconds": Histogram(counts=(0, 1, 2), sum=0.5)}
        ),
    )
    return Announcement(worker=worker, device="cpu", ready=True, models=(served,), child_restarts=2)


def test_announcements_come_back_by_name_and_expire(connection):
    announce(connection, announcement("b"))
    announce(connection, announcement("a"))
    assert read_announcements(connection) == [announcement("a"), announcement("b")]
    assert 0 < connection.ttl(keys.worker("a")) <= keys.ANNOUNCEMENT_SECONDS


def test_a_worker_that_stopped_renewing_is_dropped_with_its_name(connection):
    announce(connection, announcement("gone"))
    announce(connection, announcement("here"))
    connection.delete(keys.worker("gone"))
    assert [each.worker for each in read_announcements(connection)] == ["here"]
    assert connection.smembers(keys.WORKERS) == {b"here"}


def test_a_worker_withdraws(connection):
    announce(connection, announcement("a"))
    withdraw(connection, "a")
    assert read_announcements(connection) == []
    assert not connection.exists(keys.WORKERS, keys.worker("a"))


@pytest.mark.parametrize("junk", [b"", b"{", b"\xff", b"[]", b'{"worker": "x"}', b"[" * 9000])
def test_junk_is_skipped_and_left_to_its_owner(connection, junk):
    announce(connection, announcement("a"))
    connection.sadd(keys.WORKERS, "x", b"\xff\xfe")
    connection.set(keys.worker("x"), junk)
    connection.set(keys.worker("").encode() + b"\xff\xfe", junk)
    assert read_announcements(connection) == [announcement("a")]
    assert connection.get(keys.worker("x")) == junk
    assert connection.smembers(keys.WORKERS) == {b"a", b"x", b"\xff\xfe"}


def test_a_key_of_another_type_is_no_announcement(connection):
    announce(connection, announcement("a"))
    connection.sadd(keys.WORKERS, "x")
    connection.rpush(keys.worker("x"), "y")
    assert read_announcements(connection) == [announcement("a")]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoiled_announcement_is_read_or_skipped_and_what_is_read_can_be_counted(connection, spoiled, data):
    announce(connection, announcement("a"))
    connection.sadd(keys.WORKERS, "b")
    connection.set(keys.worker("b"), data.draw(spoiled(announcement("b").model_dump(mode="json"))))
    found = {each.worker: each for each in read_announcements(connection)}
    assert found["a"] == announcement("a")
    for each in found.values():
        for served in each.models:
            assert math.isfinite(float(served.target.version) + served.counters.units)
            assert all(count >= 0 for count in served.counters.jobs.values())
            for histogram in served.counters.histograms.values():
                assert math.isfinite(histogram.sum)
                assert all(float(count) >= 0 for count in histogram.counts)
