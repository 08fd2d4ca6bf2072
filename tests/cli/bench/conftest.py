"""A server of somebody else's that speaks the OpenAI API and nothing more: it knows no field of ours, counts no tokens
unless it is told to, and has a model for texts and one for pictures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

FIELDS = {
    "/v1/completions": {"model", "prompt", "max_tokens", "seed", "stream", "stream_options", "temperature"},
    "/v1/images/generations": {"model", "prompt", "n"},
}


class ForeignServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.key: str | None = None  # that it wants
        self.counts = False  # whether it tells usage
        self.refuses_after: int | None = None  # requests
        self.breaks_every: int | None = None  # streams: so many-th is cut off
        self.at: dict[int, Callable[[], object]] = {}  # what happens before so many-th answer, while all others wait
        self.draws_until = 0  # the number of the last request whose seed it does not heed
        self.bodies: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def __enter__(self) -> ForeignServer:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that leaves is no error."""

    def came(self, body: dict[str, Any]) -> int:
        """The request's number."""
        with self._lock:
            self.bodies.append(body)
            number = len(self.bodies)
        with self._turn:
            self.at.get(number, int)()
        return number


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ForeignServer

    def do_GET(self) -> None:
        if self._lets_in():
            models = [
                {"id": name, "object": "model", "owned_by": "them", "task": "chat", "version": "x"}
                for name in ("texts", "pictures")
            ]
            self._answer(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._lets_in():
            return
        number = self.server.came(body)
        unknown = set(body) - FIELDS[self.path]
        if unknown:
            self._refuse(400, "invalid_request_error", f"unknown fields: {sorted(unknown)}")
        elif self.server.refuses_after is not None and number > self.server.refuses_after:
            self._refuse(429, "rate_limit", "Too much.")
        elif "n" in body:
            self._answer(200, {"data": [{"b64_json": f"{body['prompt']}{index}"} for index in range(body["n"])]})
        elif body.get("stream"):
            self._stream(body, number)
        else:
            choices = [{"index": 0, "text": "".join(self._words(body, number)), "finish_reason": "length"}]
            usage = {"usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}}
            self._answer(200, {"choices": choices} | (usage if self.server.counts else {}))

    def _words(self, body: dict[str, Any], number: int) -> list[str]:
        seed = number if number <= self.server.draws_until else body.get("seed")
        return [f" {seed}-{index}" for index in range(body["max_tokens"])]

    def _stream(self, body: dict[str, Any], number: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        words = self._words(body, number)
        for word in words[: len(words) // 2]:
            self._event({"choices": [{"index": 0, "text": word, "finish_reason": None}]})
        if self.server.breaks_every and number % self.server.breaks_every == 0:
            self.close_connection = True
            return
        for word in words[len(words) // 2 :]:
            self._event({"choices": [{"index": 0, "text": word, "finish_reason": None}]})
        self._event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
        if self.server.counts:
            self._event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": body["max_tokens"]}})
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, content: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(content).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _lets_in(self) -> bool:
        if self.server.key is None or self.headers["Authorization"] == f"Bearer {self.server.key}":
            return True
        self._refuse(401, "invalid_api_key", "There is no such key.")
        return False

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, {"error": {"message": message, "type": "error", "param": None, "code": code}})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def foreign() -> Iterator[ForeignServer]:
    with ForeignServer() as server:
        yield server
