"""Clients that are slow, silent or hostile on the wire, at a real server process: they harm themselves alone."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from contracts.api_keys import ApiKeys
from contracts.jobs import JobQueue

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n"
SLOW_SECONDS = 1.5
SERVER = {"slow_client_seconds": SLOW_SECONDS}
GUNICORNS_SECONDS = 2.0  # for the head of a request, and to drain a body that was given up
GROWTH_BYTES = 16 << 20
IN_LINE = 3000  # requests that a client sends before it has an answer


@contextmanager
def trickling(server, head):
    """A connection on which, behind this head, a byte comes every tenth of a second for as long as it is open."""
    connection, over = server.connect(), threading.Event()

    def trickle():
        try:
            connection.sendall(head.encode())
            while not over.wait(0.1):
                connection.sendall(b"1")
        except OSError:
            return  # it was cut off

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield connection
    finally:
        over.set()
        thread.join()
        connection.close()


@pytest.mark.parametrize("framing", ["Content-Length: 10000", "Transfer-Encoding: chunked"])
def test_a_slow_body_is_cut_off_and_others_are_served_meanwhile(server, read_all, framing):
    with trickling(server, f"{HEAD}{framing}\r\n\r\n" + ("9999\r\n" if "chunked" in framing else "")) as slow:
        began = time.monotonic()
        assert all(server.alive() for _ in range(20))
        assert time.monotonic() - began < SLOW_SECONDS
        answer = read_all(slow)
    assert b"408" in answer.splitlines()[0]
    assert b"body_too_slow" in answer
    assert b"after 1.5 seconds; send it faster" in answer
    assert time.monotonic() - began < SLOW_SECONDS + GUNICORNS_SECONDS + 1
    assert "Traceback" not in server.log()


def test_a_slow_body_without_a_key_holds_nothing_either(start, read_all, redis):
    ApiKeys(redis).create("one", "infer")
    impatient = start(**SERVER)
    began = time.monotonic()
    with trickling(impatient, f"{HEAD}Content-Length: 10000\r\n\r\n") as slow:
        assert b"401" in read_all(slow).splitlines()[0]
    assert time.monotonic() - began < SLOW_SECONDS + GUNICORNS_SECONDS + 1


def test_a_slow_head_is_cut_off(server):
    began = time.monotonic()
    # What the client goes on sending may meet the closed end first: a reset.
    with trickling(server, "GET /healthz HTTP/1.1\r\nx: ") as slow, suppress(ConnectionResetError):
        assert slow.recv(1000) == b""
    assert time.monotonic() - began < GUNICORNS_SECONDS + 1


def test_a_client_that_never_reads_its_stream_is_cut_off_and_its_job_cancelled(server, worker, redis, eventually):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = '{"prompt": "a", "stream": true}'
    with connection:
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        job_id = worker.take()
        time.sleep(0.3)
        worker.delta(job_id, 0, "x" * 12_000_000)  # more than the system's buffers hold
        eventually(lambda: JobQueue(redis).read(job_id).status == "cancelled")
    assert server.alive()
    assert "Traceback" not in server.log()


def test_thousands_of_idle_connections_keep_nobody_out_and_are_closed(server, many_descriptors):
    with ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(3000)]
        began = time.monotonic()
        assert all(server.alive() for _ in range(20))
        assert time.monotonic() - began < 5
        assert all(connection.recv(1) == b"" for connection in idle)
        assert time.monotonic() - began < GUNICORNS_SECONDS + 8
    assert "Traceback" not in server.log()


def test_a_client_whose_requests_stand_in_line_is_not_served_before_all_others(server):
    answered: list[Any] = []
    over = threading.Event()
    with server.connect() as greedy:

        def read():
            while len(answered) < IN_LINE:
                answered.extend([None] * greedy.recv(1 << 16).count(b"200 OK"))
            over.set()

        threading.Thread(target=read).start()
        greedy.sendall(b"GET /healthz HTTP/1.1\r\nHost: [::1]\r\n\r\n" * IN_LINE)
        assert server.alive()
        assert len(answered) < IN_LINE / 2
        assert over.wait(30)


@pytest.mark.parametrize(
    "chunks", ["zz\r\n", "5\r\nabcdeX", "-1\r\n", "5\r\nab", "0\r\nbad trailer\r\n\r\n", "9" * 9000]
)
def test_chunks_that_are_none_are_a_bad_request(server, read_all, chunks):
    connection = server.connect()
    connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n{chunks}".encode())
    connection.shutdown(socket.SHUT_WR)
    answer = read_all(connection)
    assert b"400" in answer.splitlines()[0]
    assert b"invalid_value" in answer
    assert "Traceback" not in server.log()


BODY = json.dumps({"model": "tiny-picture", "n": 99})
REQUEST = (
    f"{HEAD}Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\nx-request-id: a\r\n\r\n{BODY}".encode()
)


@hypothesis_settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_bytes_that_are_hardly_http_bring_no_traceback(server, read_all, damaged, data):
    with server.connect() as connection, suppress(OSError):  # closed over bytes that it did not want
        connection.sendall(data.draw(damaged(REQUEST)))
        connection.shutdown(socket.SHUT_WR)
        assert b"Traceback" not in read_all(connection)
    assert "Traceback" not in server.log()


def test_thousands_of_bad_bodies_leave_a_server_as_large_as_before(start):
    server = start(max_body_bytes=1 << 20)
    large = [
        b'{"prompt": [' + b"-1," * 300_000 + b"0]}",
        b'{"prompt": "' + b"a" * 1_000_000 + b'"}',
        ("{" + ",".join(f'"{number}":0' for number in range(80_000)) + "}").encode(),
        b"[" * 1_000_000,
    ]
    small = [
        b"{",
        b'{"prompt": 10000000000}',
        b'{"prompt": "\\ud800"}',
        b'{"x\\n": 1e999}',
        b'{"n": ' + b"9" * 4000 + b"}",
    ]
    _post(server, small * 60 + large)
    before = _resident(server)
    _post(server, small * 400 + large * 4)
    assert _resident(server) - before < GROWTH_BYTES
    assert "Traceback" not in server.log()


def _post(server, bodies):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for body in bodies:
        connection.request("POST", "/v1/completions", body)
        answer = connection.getresponse()
        assert answer.status == 400
        assert len(answer.read()) < 5000
    connection.close()


def _resident(server):
    """Bytes of memory of the process that answers."""
    return sum(child.memory_info().rss for child in psutil.Process(server.process.pid).children())
