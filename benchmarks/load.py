"""The load generator of `serving.py`, a process of its own: so many clients, each with one connection that it keeps and
one request under way. Raw sockets and one selector, since what it takes is taken from the server beside it.

    python benchmarks/load.py '{"port": 8000, "request": "GET / HTTP/1.1...", "clients": 32, "seconds": 2}'

Prints one line of JSON: requests per second, and latencies in milliseconds. With `"stream": true` answers are
server-sent events: events per second and the time to the first are added. What comes before `warm_seconds` are over is
not counted.
"""

from __future__ import annotations

import json
import math
import selectors
import socket
import sys
import time
from collections import Counter
from typing import Any

EVENT = b"data: "
LAST_CHUNK = b"0\r\n\r\n"


class Client:
    """One connection. An answer ends as its Content-Length says or with its last chunk."""

    def __init__(self, port: int, request: bytes) -> None:
        self._request = request
        self._address = ("127.0.0.1", port)
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection(self._address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0

    def send(self) -> None:
        self._received = b""
        self.first_event_at: float | None = None
        self.began = time.perf_counter()
        self.socket.sendall(self._request)

    def receive(self) -> bytes | None:
        """The whole answer once it is here. Raises ConnectionError where it breaks off."""
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionError(f"closed after {self._received!r}")
        self._received += piece
        if self.first_event_at is None and EVENT in self._received:
            self.first_event_at = time.perf_counter()
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = _content_length(head.lower())
        ended = body.endswith(LAST_CHUNK) if length is None else len(body) >= length
        return self._received if ended else None


def _content_length(head: bytes) -> int | None:
    """None for an answer that is sent in chunks."""
    _, found, after = head.partition(b"\r\ncontent-length:")
    return int(after.split(b"\r\n", 1)[0]) if found else None


def run(port: int, request: str, clients: int, seconds: float, warm_seconds: float, stream: bool) -> dict[str, Any]:
    """Latencies are of the requests that ended in those seconds."""
    latencies: list[float] = []
    first_events: list[float] = []
    statuses: Counter[str] = Counter()
    events = 0
    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            client = Client(port, request.encode())
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.send()
        begin = time.perf_counter() + warm_seconds
        end = begin + seconds
        while (now := time.perf_counter()) < end:
            for key, _ in selector.select(timeout=end - now):
                client = key.data
                if (answer := client.receive()) is None:
                    continue
                ended = time.perf_counter()
                if ended >= begin:
                    latencies.append(ended - client.began)
                    statuses[answer[9:12].decode()] += 1
                    if stream:
                        events += answer.count(EVENT)
                        first_events.append((client.first_event_at or ended) - client.began)
                client.send()
    measured = {
        "requests_per_second": round(len(latencies) / seconds, 1),
        "p50_ms": _percentile(latencies, 50),
        "p99_ms": _percentile(latencies, 99),
        "statuses": dict(statuses),
    }
    if stream:
        measured |= {
            "events_per_second": round(events / seconds, 1),
            "first_event_p50_ms": _percentile(first_events, 50),
            "first_event_p99_ms": _percentile(first_events, 99),
        }
    return measured


def _percentile(seconds: list[float], percent: int) -> float | None:
    """In milliseconds; the smallest value that so many percent of all do not exceed."""
    if not seconds:
        return None
    return round(1000 * sorted(seconds)[math.ceil(len(seconds) * percent / 100) - 1], 3)


if __name__ == "__main__":
    print(json.dumps(run(**{"warm_seconds": 0.0, "stream": False} | json.loads(sys.argv[1]))))
