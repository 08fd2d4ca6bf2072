"""cli/redis_findings.py: versions with known holes, and settings that lose jobs."""

from __future__ import annotations

import subprocess
import time

import pytest
from redis import Redis
from redis.exceptions import RedisError

from cli.redis_findings import _clock, _version, redis_findings
from workers.embedded_redis import find_server


@pytest.mark.parametrize(
    ("name", "version", "level"),
    [
        ("redis", "5.0.14", "fault"),
        ("redis", "6.2.19", "fault"),
        ("redis", "6.2.20", "ok"),
        ("redis", "7.0.15", "fault"),  # a line that was given up before the hole was found
        ("redis", "7.4.5", "fault"),
        ("redis", "8.2.2", "ok"),
        ("redis", "8.4.0", "ok"),
        ("valkey", "8.1.3", "fault"),
        ("valkey", "8.1.4", "ok"),
        ("valkey", "9.0.0", "ok"),
        ("dragonfly", "1.2.3", "note"),
        ("redis", "unstable", "note"),
    ],
)
def test_versions_with_a_hole_are_to_be_updated(name, version, level):
    finding = _version(name, version)
    assert finding.level == level
    assert version in finding.text


@pytest.fixture
def careless(tmp_path):
    """A Redis that evicts, and keeps nothing."""
    socket = tmp_path / "redis.sock"
    options = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen([find_server(), "--port", "0", "--unixsocket", str(socket), *options])
    client = Redis(unix_socket_path=str(socket))
    deadline = time.monotonic() + 30
    while not socket.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield client
    client.close()
    server.kill()
    server.wait()


def test_one_that_evicts_and_keeps_nothing_is_named(careless):
    findings = {finding.text: finding.level for finding in redis_findings(careless, ours=False)}
    assert (
        findings["it evicts keys when memory is full (allkeys-lru): jobs. Set maxmemory-policy noeviction"] == "fault"
    )
    assert findings["it keeps no append-only file: a restart loses jobs. Set appendonly yes"] == "note"


def test_a_user_who_may_not_ask_is_told_so(careless):
    careless.execute_command("ACL", "SETUSER", "poor", "on", "nopass", "+ping", "+hello", "+auth")
    poor = Redis(unix_socket_path=careless.connection_pool.connection_kwargs["path"], username="poor", password="x")
    with poor:
        (finding,) = redis_findings(poor, ours=False)
    assert finding.level == "note"
    assert "may not ask for more" in finding.text


class Late(Redis):
    """A real Redis, an hour behind."""

    def time(self, **options):
        seconds, microseconds = super().time(**options)
        return seconds - 3600, microseconds


def test_a_clock_that_is_wrong_is_a_fault(careless):
    late = Late(connection_pool=careless.connection_pool)
    assert _clock(late).level == "fault"
    assert "3600.0 s away" in _clock(late).text


def test_one_that_does_not_answer_raises(tmp_path):
    with pytest.raises(RedisError):
        list(redis_findings(Redis(unix_socket_path=str(tmp_path / "none")), ours=False))
