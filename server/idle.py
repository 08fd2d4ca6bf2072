"""Clients' connections between two requests."""

from __future__ import annotations

import socket
from contextlib import suppress


class IdleConnections:
    """Connections whose answer is sent and whose next request has not begun.

    gunicorn gives such a pause and the next request's head one time together. The head's must be short; the pause must
    be longer than that of any client or proxy which keeps connections, or a request meets a connection that is just
    being closed, and its sender cannot know whether it was taken. A client that tries again after `Retry-After: 2`
    would hit upon such a moment every time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: set[socket.socket] = set()

    def wait(self, connection: socket.socket) -> None:
        """Return once the client has sent something or hung up. Raises TimeoutError when it has done neither."""
        self._waiting.add(connection)
        try:
            connection.settimeout(self._seconds)
            connection.recv(1, socket.MSG_PEEK)
        finally:
            self._waiting.discard(connection)

    def close(self) -> None:
        """End those that wait now: what has come in until here is still read, and then there is nothing more."""
        for connection in tuple(self._waiting):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
