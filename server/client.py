"""The client's end of the connection: is anybody still there?"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

from gevent import monkey  # type: ignore[import-untyped]

# The system's own poll(): asked with timeout 0 it never blocks, and unlike select() it takes any number of descriptors.
_poll = monkey.get_original("select", "poll")


def presence(environ: dict[str, Any]) -> Callable[[], bool]:
    """A function that says whether the request's client is still connected; always yes where that cannot be told."""
    connection: socket.socket | None = environ.get("gunicorn.socket")
    return lambda: connection is None or _is_open(connection)


def _is_open(connection: socket.socket) -> bool:
    try:
        poll = _poll()
        poll.register(connection.fileno(), select.POLLIN)
        # A client that waits for its answer sends nothing: what can be read is its next request, or the end (b"").
        return not poll.poll(0) or connection.recv(1, socket.MSG_PEEK) != b""
    except (OSError, ValueError):
        return False
