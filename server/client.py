"""The client's end of the connection: what it sends, and whether it is still there."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from flask import request
from gevent import monkey

# The system's own poll(): asked with timeout 0 it never blocks, and unlike select() it takes any number of descriptors.
_poll = monkey.get_original("select", "poll")


def body() -> bytes:
    """The whole body of the current request. Raises werkzeug's RequestEntityTooLarge over the limit."""
    received = request.get_data()
    if request.content_length is None:
        request.stream.read(1)  # a chunked body is cut at the limit without a word; reading beyond it tells
    return received


def presence() -> Callable[[], bool]:
    """Says, also later, whether the current request's client is connected; always yes where that cannot be told."""
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    return lambda: connection is None or _is_open(connection)


def _is_open(connection: socket.socket) -> bool:
    try:
        poll = _poll()
        poll.register(connection.fileno(), select.POLLIN)
        # A client that waits for its answer sends nothing: what can be read is its next request, or the end (b"").
        return not poll.poll(0) or connection.recv(1, socket.MSG_PEEK) != b""
    except (OSError, ValueError):
        return False
