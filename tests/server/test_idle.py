"""Connections that a client keeps between two requests, at a real server process."""

from __future__ import annotations

import http.client
import signal
import time

import pytest

KEEP_ALIVE_SECONDS = 4.0
SERVER = {"keep_alive_seconds": KEEP_ALIVE_SECONDS}
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: [::1]\r\n\r\n"


@pytest.fixture
def kept(server):
    """A connection on which one request was answered."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    ask(connection)
    yield connection
    connection.close()


def ask(connection):
    connection.request("GET", "/healthz")
    assert connection.getresponse().read()


def test_a_pause_as_long_as_retry_after_does_not_meet_a_connection_that_is_being_closed(server, kept):
    for seconds in (1.99, 2.01, 2.5):
        connection = kept.sock
        time.sleep(seconds)
        ask(kept)
        assert kept.sock is connection, "http.client would have opened another one"


def test_a_connection_that_stays_idle_is_closed(server, kept):
    began = time.monotonic()
    assert kept.sock.recv(1) == b""
    assert KEEP_ALIVE_SECONDS - 0.5 < time.monotonic() - began < KEEP_ALIVE_SECONDS + 3
    assert "Traceback" not in server.log()


def test_the_head_of_a_later_request_has_no_more_time_than_that_of_the_first(server, kept):
    kept.sock.sendall(HEALTH[:20])
    began = time.monotonic()
    assert kept.sock.recv(1) == b""
    assert time.monotonic() - began < 3


def test_requests_sent_together_are_answered_together(server, kept):
    kept.sock.sendall(HEALTH * 3 + HEALTH[:20])
    time.sleep(0.2)
    kept.sock.sendall(HEALTH[20:])
    received = b""
    while received.count(b"200 OK") < 4:
        received += kept.sock.recv(1 << 16)


def test_a_server_that_ends_does_not_wait_for_idle_connections(start, read_all):
    server = start(keep_alive_seconds=60.0)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    ask(connection)
    server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert read_all(connection.sock) == b""
    assert server.process.wait(timeout=10) == 0
    assert time.monotonic() - began < 6
