"""What `kamishibai doctor` looks at in a Redis: whether it is safe, keeps what it is given, and has the right time."""

from __future__ import annotations

import re
import time
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from cli.finding import Finding, Findings

MOST_SKEW_SECONDS = 1.0
OLDEST = {"redis": (6, 2, 0), "valkey": (7, 2, 0)}
# CVE-2025-49844: a script can run code of its writer's on Redis' machine. First releases without it, by line.
MENDED: dict[str, dict[tuple[int, int], int]] = {
    "redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}


def redis_findings(connection: Redis, *, ours: bool) -> Findings:
    """`ours`: the one that `up` runs, which is synced from outside. Raises RedisError where it does not answer."""
    connection.ping()
    try:
        about: dict[str, Any] = connection.info("everything")
    except NoPermissionError:
        yield Finding("note", "this user may not ask for more (INFO); ask as one who may, to have the rest looked at")
        return
    name = about.get("server_name", "redis")
    yield _version(name, str(about.get(f"{name}_version", about["redis_version"])))
    yield _eviction(about)
    yield _persistence(about, ours=ours)
    yield _memory(about)
    yield _clock(connection)


def _version(name: str, version: str) -> Finding:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if name not in MENDED or found is None:
        return Finding("note", f"{name} {version} is not known here; Redis 6.2 or newer and Valkey are")
    major, minor, patch = map(int, found.groups())
    if (major, minor, patch) < OLDEST[name]:
        return Finding("fault", f"{name} {version} is too old; Redis 6.2 is the oldest that will do")
    mended, newest = MENDED[name], max(MENDED[name])
    if (major, minor) <= newest and patch < mended.get((major, minor), 1 << 30):
        good = ", ".join(f"{line[0]}.{line[1]}.{least}" for line, least in mended.items())
        return Finding(
            "fault", f"{name} {version} lets scripts run any code (CVE-2025-49844); update to {good} or newer"
        )
    return Finding("ok", f"{name} {version}")


def _eviction(about: dict[str, Any]) -> Finding:
    policy, most = about.get("maxmemory_policy", "noeviction"), int(about.get("maxmemory", 0))
    if most and policy != "noeviction":
        return Finding("fault", f"it evicts keys when memory is full ({policy}): jobs. Set maxmemory-policy noeviction")
    return Finding("ok", "it evicts nothing")


def _persistence(about: dict[str, Any], *, ours: bool) -> Finding:
    if not int(about.get("aof_enabled", 0)):
        return Finding("note", "it keeps no append-only file: a restart loses jobs. Set appendonly yes")
    if about.get("aof_last_write_status", "ok") != "ok":
        return Finding("fault", "its append-only file could not be written; look at its disk")
    return Finding("ok", "its append-only file is synced once a second" if ours else "it keeps an append-only file")


def _memory(about: dict[str, Any]) -> Finding:
    used, most = int(about["used_memory"]), int(about.get("maxmemory", 0)) or int(about.get("total_system_memory", 0))
    text = f"{used >> 20:,} of {most >> 20:,} MiB of memory are used"
    return Finding("ok", text) if used < 0.8 * most else Finding("fault", f"{text}; give it more, or limit the queues")


def _clock(connection: Redis) -> Finding:
    """Leases have Redis' clock alone; deadlines and waits are told with both."""
    began = time.time()
    try:
        seconds, microseconds = connection.time()
    except RedisError as error:
        return Finding("note", f"its clock cannot be read: {error}")
    skew = abs(seconds + microseconds / 1e6 - (began + time.time()) / 2)
    if skew > MOST_SKEW_SECONDS:
        return Finding("fault", f"its clock is {skew:.1f} s away from this machine's; run NTP on both")
    return Finding("ok", f"its clock is {1000 * skew:.0f} ms away from this machine's")
