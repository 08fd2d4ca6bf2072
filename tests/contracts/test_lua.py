"""The clock of our scripts: Redis' Lua makes the same dates as Python."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contracts.lua import CLOCK, RING

TIME = "redis.call('TIME')"
REPORT = "\nlocal seconds, stamp, iso = clock()\nreturn {string.format('%.6f', seconds), stamp, iso}"


@pytest.fixture
def clock(connection):
    assert CLOCK.count(TIME) == 1
    return connection.register_script(CLOCK.replace(TIME, "{ARGV[1], ARGV[2]}") + REPORT)


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seconds=st.integers(0, at(2400, 12, 31)), micros=st.integers(0, 999_999))
@example(0, 0)
@example(at(1972, 2, 29, 23, 59, 59), 999_999)
@example(at(2000, 2, 29), 1)
@example(at(2000, 3, 1) - 1, 0)
@example(at(2023, 12, 31, 23, 59, 59), 0)
@example(at(2024, 2, 28, 23, 59, 59), 0)
@example(at(2024, 2, 29), 0)
@example(at(2024, 3, 1), 0)
@example(2**31 - 1, 0)
@example(2**31, 0)
@example(at(2100, 2, 28, 23, 59, 59), 0)
@example(at(2100, 3, 1), 0)
def test_dates_are_pythons(clock, seconds, micros):
    _, stamp, iso = clock(args=[seconds, micros])
    assert iso.decode() == datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{micros:06d}Z"
    assert stamp.decode() == f"{seconds}.{micros:06d}"


def test_the_clock_is_redis_own(connection):
    before, after = connection.time(), None
    seconds, stamp, _ = connection.register_script(CLOCK + REPORT)()
    after = connection.time()
    assert before[0] + before[1] / 1e6 <= float(stamp) <= after[0] + after[1] / 1e6
    assert float(seconds) == pytest.approx(float(stamp), abs=2e-6)


def test_ringing_leaves_one_token_with_a_lifetime(connection):
    ring = connection.register_script(RING + "ring(ARGV[1])")
    for _ in range(3):
        ring(args=["q"])
    assert connection.lrange("kamishibai:bell:q", 0, -1) == [b"1"]
    assert 0 < connection.ttl("kamishibai:bell:q") <= 3600
