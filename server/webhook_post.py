"""One POST to somebody else's server: to the addresses that were looked at, with one deadline for all of it, and no
redirects, proxies or cookies."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from server.webhook_addresses import Destination

MOST_ANSWER_BYTES = 1 << 16  # that are read of what nobody looks at, so that the other side can end in peace


class PostFailed(Exception):
    """No answer came."""


def post(destination: Destination, headers: dict[str, str], body: bytes, tls: ssl.SSLContext, seconds: float) -> int:
    """The answer's status. Raises PostFailed."""
    deadline = time.monotonic() + seconds
    try:
        with _connected(destination, tls, deadline) as connection:
            sender = http.client.HTTPConnection(destination.host, destination.port)
            sender.auto_open = 0  # it never looks for an address itself
            sender.sock = connection
            sender.request("POST", destination.target, body, {"Host": destination.host_header, **headers})
            answer = sender.getresponse()
            with suppress(OSError, http.client.HTTPException, ValueError):
                answer.read(MOST_ANSWER_BYTES)
            return answer.status
    except TimeoutError:
        raise PostFailed(f"no answer within {seconds:g} seconds") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = time.monotonic() >= deadline
        raise PostFailed(f"no answer within {seconds:g} seconds" if late else f"{error}" or repr(error)) from None


@contextmanager
def _connected(destination: Destination, tls: ssl.SSLContext, deadline: float) -> Iterator[socket.socket]:
    """A connection that is cut at the deadline, whatever it is used for. Raises OSError."""
    with _first_that_answers(destination, deadline) as plain, plain.dup() as handle:
        # A time-out of a socket is one for each piece; who sends a byte now and then would hold us for ever.
        cut = threading.Timer(max(0.0, deadline - time.monotonic()), lambda: _cut(handle))
        cut.daemon = True
        cut.start()
        try:
            if destination.secure:
                with tls.wrap_socket(plain, server_hostname=destination.host) as secure:
                    yield secure
            else:
                yield plain
        finally:
            cut.cancel()
            cut.join()


def _first_that_answers(destination: Destination, deadline: float) -> socket.socket:
    """Raises OSError."""
    fault: OSError = TimeoutError()
    for address in destination.addresses:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            return socket.create_connection((address, destination.port), timeout=left)
        except OSError as error:
            fault = error
    raise fault


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
