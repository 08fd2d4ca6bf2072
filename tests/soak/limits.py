"""The limits that a soak holds. docs/limits.md states them with their reasons; tests/test_limits.py compares both."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.requests import MAX_CHOICES

MIB = 1 << 20


@dataclass(frozen=True)
class Limit:
    """Of a gauge, in bytes or as a count. None: not held."""

    most: int  # at any time
    growth: int | None = None  # by its trend after the warm-up, however long the run is
    at_rest: int | None = None  # above what it was before the first request, once all lifetimes are over


LIMITS: dict[str, Limit] = {
    "supervisor memory": Limit(32 * MIB, growth=2 * MIB),
    "redis memory": Limit(32 * MIB, growth=8 * MIB),
    "arbiter memory": Limit(32 * MIB, growth=2 * MIB),
    "server memory": Limit(80 * MIB, growth=8 * MIB),
    "worker memory": Limit(64 * MIB, growth=8 * MIB),
    "engine memory": Limit(320 * MIB, growth=8 * MIB),
    "clerk memory": Limit(64 * MIB, growth=8 * MIB),
    "supervisor descriptors": Limit(16, growth=2, at_rest=2),
    "redis descriptors": Limit(64, growth=32, at_rest=40),
    "arbiter descriptors": Limit(16, growth=2, at_rest=2),
    "server descriptors": Limit(64, growth=32, at_rest=40),
    "worker descriptors": Limit(24, growth=4, at_rest=4),
    "engine descriptors": Limit(16, growth=2, at_rest=2),
    "clerk descriptors": Limit(32, growth=4, at_rest=4),
    "supervisor threads": Limit(4, at_rest=0),
    "redis threads": Limit(8, at_rest=0),
    "arbiter threads": Limit(4, at_rest=0),
    "server threads": Limit(16, at_rest=12),
    "worker threads": Limit(8, at_rest=0),
    "engine threads": Limit(16, at_rest=0),
    "clerk threads": Limit(8, at_rest=0),
    "redis data": Limit(32 * MIB, growth=4 * MIB, at_rest=2 * MIB),
    "redis connections": Limit(48, growth=32, at_rest=40),
    "append-only file": Limit(80 * MIB),
}
KEYS_OF_JOB = 4 + MAX_CHOICES
BYTES_OF_JOB = 5120
LOG_BYTES_PER_THOUSAND_REQUESTS = 4096
