"""Ports for servers that tests start: the system hands out a port that was let go again, also to another process."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that Linux gives to clients (32,768 and on). Each process of the suite has a range of its own.
FIRST, RANGE = 12_000, 1_000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_next = itertools.cycle(range(FIRST + _WORKER % 16 * RANGE, FIRST + (_WORKER % 16 + 1) * RANGE))


def free_port() -> int:
    """One that nobody listens on, and that this process has not had for a while."""
    for port in _next:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("a cycle has no end")
