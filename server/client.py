"""The client's end of the connection: what it sends, and whether it is still there."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress

import gevent
from flask import request
from gevent import monkey
from gunicorn.http.errors import ParseException

from contracts.errors import BodyTooSlow, InvalidRequest

# The system's own poll(): asked with timeout 0 it never blocks, and unlike select() it takes any number of descriptors.
_poll = monkey.get_original("select", "poll")


DISCARD_BYTES = 16 << 20


def body(seconds: float) -> bytes:
    """The whole body of the current request.

    Raises werkzeug's RequestEntityTooLarge over the limit, BodyTooSlow if it takes longer than this, and InvalidRequest
    for one that is not cut into chunks as HTTP says.
    """
    slow = BodyTooSlow(f"The body was not here after {seconds:g} seconds; send it faster, or a smaller one.")
    try:
        with gevent.Timeout(seconds, slow):
            received = request.get_data()
            if request.content_length is None:
                request.stream.read(1)  # a chunked body is cut at the limit without a word; reading beyond it tells
            return received
    except ParseException as error:
        raise InvalidRequest(
            f"The body is not chunked as HTTP says ({error}); send it with a Content-Length."
        ) from None


def discard_body(seconds: float) -> None:
    """Read on for a while: a connection closed over unread bytes is reset, and the client never sees its answer."""
    left, stream = DISCARD_BYTES, request.environ["wsgi.input"]
    with gevent.Timeout(seconds, False), suppress(OSError, ParseException):
        while left > 0 and (piece := stream.read(min(left, 1 << 16))):
            left -= len(piece)


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
