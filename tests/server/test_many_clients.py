"""Two thousand clients that wait at once, at one real server process: all are served, nobody else waits for them."""

from __future__ import annotations

import json
import re
import selectors
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial

import psutil
import pytest

from contracts.connection import MOST_CONNECTIONS
from contracts.jobs import JobQueue
from contracts.orders import Order
from contracts.requests import TextRequest

POLLS, READERS, CALLS = 900, 600, 500  # long polls of jobs, streams of jobs, streamed completions
VANISHING = 200  # of each kind
GROUP = 100  # clients that arrive at the same moment
PROMPT_SECONDS = 4.0  # any other request: some 0.2 s on quiet cores, and other tests may run beside this one
BYTES_OF_CLIENT = 64 << 10
OWN_DESCRIPTORS = 24
SUBSCRIPTIONS = 1

WAITING = re.compile(r'kamishibai_waiting_clients\{kind="(\w+)"\} ([0-9.]+)')


class Client:
    """One connection with one request; its answer ends when the server closes it."""

    def __init__(self, connection):
        self.connection = connection
        self.answer = b""
        self.ended = False


class Crowd:
    """Many clients, for all of which one thread reads."""

    def __init__(self, port):
        self._address = ("127.0.0.1", port)
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def send(self, method, path, body=""):
        client = Client(socket.create_connection(self._address, timeout=30))
        head = f"{method} {path} HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        client.connection.sendall((head + body).encode())
        with self._lock:
            self._selector.register(client.connection, selectors.EVENT_READ, client)
        return client

    def leave(self, clients):
        with self._lock:
            for client in clients:
                self._selector.unregister(client.connection)
                client.connection.close()

    def stop(self):
        self._over.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.data.connection.close()
        self._selector.close()

    def _read(self):
        while not self._over.is_set():
            with self._lock:
                for key, _ in self._selector.select(timeout=0.01):
                    self._take(key.data)
            time.sleep(0.001)  # for those who wait for the lock

    def _take(self, client):
        piece = client.connection.recv(1 << 16)
        client.answer += piece
        if not piece:
            client.ended = True
            self._selector.unregister(client.connection)
            client.connection.close()


class Passer:
    """Somebody who asks for this and that all the time, and notes how long the slowest answer took."""

    REQUESTS = (
        ("GET", "/healthz", "", b"200"),
        ("GET", "/v1/models", "", b"200"),
        ("POST", "/v1/jobs", json.dumps({"model": "tiny-picture", "input": {}}), b"202"),
    )

    def __init__(self, server, worker, read_all):
        self._server, self._worker, self._read_all = server, worker, read_all
        self.slowest = {path: 0.0 for _, path, _, _ in self.REQUESTS}
        self.wrong = []

    @contextmanager
    def passing(self):
        over = threading.Event()
        thread = threading.Thread(target=self._ask, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _ask(self, over):
        while not over.is_set():
            self._worker.announce()
            for method, path, body, status in self.REQUESTS:
                began = time.monotonic()
                first_line = self._read_all(self._server.request(method, path, body)).splitlines()[0]
                self.slowest[path] = max(self.slowest[path], time.monotonic() - began)
                if status not in first_line:
                    self.wrong.append(first_line)
            over.wait(0.05)


@pytest.fixture
def crowd(server, many_descriptors):
    crowd = Crowd(server.port)
    yield crowd
    crowd.stop()


@pytest.fixture
def submit(worker, redis):
    """Put so many text jobs on the queue; their ids."""
    jobs, target = JobQueue(redis), worker.served[0].target

    def submit(count):
        orders = [
            Order(
                request=TextRequest(target=target, seed=1, prompt_tokens=(0,), stream=True),
                result_seconds=120,
                timeout_seconds=120,
            )
            for _ in range(count)
        ]
        jobs.enqueue(orders)
        return [order.job_id for order in orders]

    return submit


def test_two_thousand_waiting_clients_are_served_and_others_are_answered_promptly(
    server, worker, redis, crowd, submit, read_all, eventually
):
    process = psutil.Process(server.process.pid).children()[0]
    assert server.alive()
    memory, descriptors, connections = private_bytes(process), process.num_fds(), len(redis.client_list())
    job_ids = submit(POLLS + READERS)
    requests = [("GET", f"/v1/jobs/{job_id}?wait=60", "") for job_id in job_ids[:POLLS]]
    requests += [("GET", f"/v1/jobs/{job_id}/events", "") for job_id in job_ids[POLLS:]]
    requests += [("POST", "/v1/completions", '{"model": "tiny-text", "prompt": "a", "stream": true}')] * CALLS
    passer = Passer(server, worker, read_all)
    with passer.passing():
        clients = []
        for begin in range(0, len(requests), GROUP):
            clients += [crowd.send(*request) for request in requests[begin : begin + GROUP]]
            eventually(partial(all_wait, server, read_all, len(clients)), 30)
        polls, readers, calls = clients[:POLLS], clients[POLLS:-CALLS], clients[-CALLS:]
        assert waiting(server, read_all) == {"answer": POLLS, "stream": READERS + CALLS}
        queued = [job_id.decode() for job_id in redis.lrange(worker.queues[1], 0, -1)]
        called = [job_id for job_id in queued if job_id not in set(job_ids)]
        assert len(called) == CALLS

        # What they cost.
        assert (private_bytes(process) - memory) / len(clients) < BYTES_OF_CLIENT
        assert process.num_fds() - descriptors <= len(clients) + MOST_CONNECTIONS + OWN_DESCRIPTORS
        assert len(redis.client_list()) - connections <= MOST_CONNECTIONS + SUBSCRIPTIONS

        # Some vanish without a word: all that they had is free again, and jobs that were theirs alone are cancelled.
        gone = polls[:VANISHING] + readers[:VANISHING] + calls[:VANISHING]
        staying = polls[VANISHING:] + readers[VANISHING:] + calls[VANISHING:]
        crowd.leave(gone)
        eventually(partial(all_wait, server, read_all, len(staying)), 30)
        jobs = JobQueue(redis)
        left = [job_id for job_id in called if not jobs.read(job_id).ended]
        assert len(left) == CALLS - VANISHING
        assert process.num_fds() - descriptors <= len(staying) + MOST_CONNECTIONS + OWN_DESCRIPTORS

        # The jobs of the others end.
        for job_id in [*job_ids, *left]:
            worker.finish(job_id)
        eventually(lambda: all(client.ended for client in staying), 30)
        eventually(lambda: waiting(server, read_all) == {"answer": 0, "stream": 0})
    assert all(b'"status":"succeeded"' in client.answer for client in polls[VANISHING:])
    assert all(b"hello" in client.answer and b"[DONE]" in client.answer for client in staying[POLLS - VANISHING :])
    assert passer.wrong == []
    assert max(passer.slowest.values()) < PROMPT_SECONDS, passer.slowest
    assert process.num_fds() - descriptors <= MOST_CONNECTIONS + OWN_DESCRIPTORS
    assert len(redis.client_list()) - connections <= MOST_CONNECTIONS + SUBSCRIPTIONS
    assert "Traceback" not in server.log()


def waiting(server, read_all):
    """Clients that wait, by kind, as the server counts them."""
    metrics = read_all(server.request("GET", "/metrics")).decode()
    return {kind: int(float(count)) for kind, count in WAITING.findall(metrics)}


def all_wait(server, read_all, count):
    return sum(waiting(server, read_all).values()) == count


def private_bytes(process):
    """Memory that a process has taken itself."""
    return process.memory_full_info().uss
