"""Clients that write down all they see. Like real ones they try again after a 503 or a broken connection."""

from __future__ import annotations

import http.client
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.chaos.history import History
from tests.chaos.orders import JOBS, Order
from tests.chaos.references import content_of

AT_ONCE = 200  # clients that wait at the same time
PATIENCE_SECONDS = 300.0  # after which a job counts as lost
POLL_SECONDS = 20.0
HTTP_SECONDS = 300.0  # longer than Redis is away and all that must start again after it
Event = tuple[str, int, str]  # id, choice, text
ENDED = {"succeeded", "failed", "cancelled", "expired"}


@dataclass(frozen=True)
class Answer:
    """`status` 0 is a connection that was refused or broke; `body` then says how."""

    status: int
    body: dict[str, Any]
    server: str
    seconds: float

    @property
    def code(self) -> str:
        return str(self.body.get("error", {}).get("code", ""))


class Crowd:
    """All clients of a run. `servers` maps the names of servers to their ports; `results_of` counts a job's results."""

    def __init__(
        self,
        servers: dict[str, int],
        history: History,
        seed: int,
        read_again_after: float,
        results_of: Callable[[str], int],
    ) -> None:
        self._results_of = results_of
        self._servers = servers
        self._history = history
        self._seed = seed
        self._to_read_again: queue.SimpleQueue[tuple[float, int, str] | None] = queue.SimpleQueue()
        self._read_again_after = read_again_after
        self.finished = 0

    def serve(self, orders: Iterable[Order], per_second: float) -> None:
        """Send orders at this rate, however long their answers take; return when the last has its answer."""
        reader = threading.Thread(target=self._read_again, name="read again")
        reader.start()
        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE, "client") as clients:
            for index, order in enumerate(orders):
                time.sleep(max(0.0, began + index / per_second - time.monotonic()))
                clients.submit(self._serve, order).add_done_callback(self._count)
        self._to_read_again.put(None)
        reader.join()

    def _count(self, done: Future[None]) -> None:
        self.finished += 1
        if error := done.exception():
            self._history.record("client failed", error=repr(error))

    def _serve(self, order: Order) -> None:
        client = Client(order, self._servers, self._history, Random(f"{self._seed}/{order.number}"))
        if (job := client.run()) is not None:
            self._to_read_again.put((time.monotonic() + self._read_again_after, order.number, job))

    def _read_again(self) -> None:
        """An ended job does not change: read each again some time after its end."""
        while (due := self._to_read_again.get()) is not None:
            at, number, job = due
            time.sleep(max(0.0, at - time.monotonic()))
            order = Order(number, "job", 0)
            Client(order, self._servers, self._history, Random(number)).follow(job, wait_seconds=0)
            self._history.record("results", number, job, count=self._results_of(job))


class Client:
    """One client and its order."""

    def __init__(self, order: Order, servers: dict[str, int], history: History, rng: Random) -> None:
        self._order = order
        self._servers = servers
        self._history = history
        self._rng = rng

    def run(self) -> str | None:
        """The id of a job that has ended and can still be read."""
        manner = self._order.manner
        self._record("sent", manner=manner, body=self._order.body)
        if manner not in JOBS:
            serve = {
                "call": self._call,
                "stream": self._stream,
                "leave": self._leave,
                "vanish": self._vanish,
                "bad": self._ask_badly,
            }
            serve[manner]()
            return None
        answer = self._insist("POST", "/v1/jobs", self._order.payload, enough={202})
        job = str(answer.body["id"])
        self._record("accepted", job, seconds=answer.seconds, server=answer.server)
        if manner == "follow":
            self._read_stream_of(job)
        return self._cancel(job) if manner == "cancel" else self.follow(job)

    def follow(self, job: str, wait_seconds: float = POLL_SECONDS) -> str | None:
        """Read a job until it has ended; its id, if it has."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            answer = self._insist("GET", f"/v1/jobs/{job}?wait={wait_seconds:g}", None, enough={200, 404})
            if answer.status == 404:
                self._record("missing", job)
                return None
            if answer.body["status"] in ENDED:
                self._record("ended", job, **_facts(answer.body))
                return job
        self._record("gave up", job)
        return None

    def _cancel(self, job: str) -> str | None:
        time.sleep(self._rng.choice([0.0, 0.05, 0.5]))
        answer = self._insist("DELETE", f"/v1/jobs/{job}", None, enough={200, 404})
        if "status" not in answer.body:  # it had ended, so this has deleted it; or an answer before this got lost
            self._record("deleted", job)
            return None
        self._record("ended", job, **_facts(answer.body))
        return job

    def _call(self) -> None:
        answer = self._insist("POST", self._order.path, self._order.payload, enough={200})
        self._record("answered", content=content_of(answer.body), seconds=answer.seconds)

    def _stream(self) -> None:
        """One try: a completion's stream ends with its server."""
        events: list[Event] = []
        facts = self._read_events("POST", self._order.path, self._order.payload, events)
        self._record("streamed", events=events, **facts)

    def _read_stream_of(self, job: str) -> None:
        """A job's stream is resumed on any server until it is done; its pieces must make one text."""
        events: list[Event] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            facts = self._read_events("GET", f"/v1/jobs/{job}/events", None, events)
            if facts["finish"] == "done" or facts["finish"].endswith(("engine_failed", "worker_lost")):
                self._record("streamed", job, events=events, **facts)
                return
            self._record("interrupted", job, **facts)
            time.sleep(self._rng.uniform(0.5, 1.5))
        self._record("gave up", job)

    def _read_events(self, method: str, path: str, payload: Any, events: list[Event]) -> dict[str, Any]:
        """Append to the events that have come so far, from the last one on. How it went: finish, server, seconds."""
        server, began = self._rng.choice(sorted(self._servers)), time.monotonic()
        finish = "broken"
        try:
            with closing(self._connection(server)) as connection:
                last = {"Last-Event-ID": events[-1][0]} if events else {}
                self._send(connection, method, path, payload, last)
                answer = connection.getresponse()
                if answer.status == 200:
                    finish = _take_events(answer, events)
                else:
                    finish = f"refused: {json.loads(answer.read())['error']['code']}"
        except (OSError, http.client.HTTPException, ValueError):
            pass  # what came until then is in `events`
        return {"finish": finish, "server": server, "seconds": time.monotonic() - began}

    def _leave(self) -> None:
        server = self._rng.choice(sorted(self._servers))
        try:
            with closing(self._connection(server)) as connection:
                self._send(connection, "POST", self._order.path, self._order.payload)
                time.sleep(self._rng.choice([0.0, 0.02, 0.3]))
        except OSError:
            pass  # it left all the same
        self._record("left", server=server)

    def _vanish(self) -> None:
        """Read the first lines of a stream, then go without a word."""
        server = self._rng.choice(sorted(self._servers))
        with closing(self._connection(server)) as connection:
            self._send(connection, "POST", self._order.path, self._order.payload)
            with connection.getresponse() as answer:
                for _ in range(self._rng.choice([1, 5, 20])):
                    answer.readline()
        self._record("left", server=server)

    def _ask_badly(self) -> None:
        answer = self._ask("POST", self._order.path, self._order.payload)
        if answer.status not in {400, 404}:
            raise RuntimeError(f"order {self._order.number}: a bad request got {answer}")
        self._record("rejected", status=answer.status, code=answer.code)

    def _insist(self, method: str, path: str, payload: Any, enough: set[int]) -> Answer:
        """Ask a server, another one after each 503 and broken connection, until one gives an answer that is enough."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self._ask(method, path, payload)
            if answer.status in enough:
                return answer
            self._record(
                "refused" if answer.status else "broken",
                asked=f"{method} {path}",
                status=answer.status,
                code=answer.code,
                message=str(answer.body)[:200],
                server=answer.server,
                seconds=round(answer.seconds, 4),
            )
            if answer.status not in {0, 503} or time.monotonic() > deadline:
                raise RuntimeError(f"order {self._order.number}: {method} {path} got {answer}")
            time.sleep(self._rng.uniform(0.5, 1.5))

    def _ask(self, method: str, path: str, payload: Any) -> Answer:
        server, began = self._rng.choice(sorted(self._servers)), time.monotonic()
        try:
            with closing(self._connection(server)) as connection:
                self._send(connection, method, path, payload)
                answer = connection.getresponse()
                status, body = answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            status, body = 0, {"broken": repr(error)}
        return Answer(status, body, server, time.monotonic() - began)

    def _connection(self, server: str) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._servers[server], timeout=HTTP_SECONDS)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        payload: Any,
        headers: dict[str, str] | None = None,
    ) -> None:
        body = None if payload is None else json.dumps(payload)
        connection.request(method, path, body, {"Content-Type": "application/json"} | (headers or {}))

    def _record(self, what: str, job: str | None = None, **facts: Any) -> None:
        self._history.record(what, self._order.number, job, **facts)


def _facts(job: dict[str, Any]) -> dict[str, Any]:
    """What of an ended job may never change again."""
    facts = {name: job.get(name) for name in ("status", "seed", "ended_at")}
    facts["content"] = content_of(job["result"]) if "result" in job else None
    facts["error"] = job.get("error")
    return facts


def _take_events(answer: http.client.HTTPResponse, events: list[Event]) -> str:
    """Append the events of an answer; how the stream finished."""
    event_id = ""
    for raw in answer:
        line = raw.decode().rstrip("\n")
        if line.startswith("id: "):
            event_id = line.removeprefix("id: ")
        elif line == "data: [DONE]":
            return "done"
        elif line.startswith("data: "):
            body = json.loads(line.removeprefix("data: "))
            if "error" in body:
                return f"error: {body['error']['code']}"
            events += [(event_id, choice["index"], choice["text"]) for choice in body["choices"]]
    return "broken"
