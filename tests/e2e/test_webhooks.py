"""Webhooks of the whole product: every end of a job is told, also when clerk and worker are killed meanwhile."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from standardwebhooks import Webhook

SETTINGS = {"KAMISHIBAI_WEBHOOK_HTTP": "on", "KAMISHIBAI_WEBHOOK_PRIVATE": "on"}


@pytest.fixture
def receiver():
    """The messages that have come, as (headers, body)."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()


@pytest.fixture
def product(start_product):
    product = start_product(settings=SETTINGS)
    product.wait_ready()
    return product


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def post(product, url, **fields):
    asked = {"prompt": "the fox", "max_tokens": 5}
    status, job = product.post("/v1/jobs", {"model": "lstm", "input": asked, "webhook": url} | fields)
    assert status == 202, job
    return job["id"]


def test_every_way_in_which_a_job_ends_is_told(product, receiver):
    url, received = receiver
    endless = {"prompt": "the fox", "max_tokens": 4000, "n": 16}
    done = post(product, url)
    cancelled = post(product, url, input=endless)
    assert product.delete(f"/v1/jobs/{cancelled}")[0] == 200
    expired = post(product, url, input=endless | {"n": 1}, deadline_seconds=0.3)
    picture = post(product, url, model="faces", input={"n": 2})
    wait_until(lambda: len(received) == 4)
    verifier = Webhook(product.get("/v1/webhooks/secret")[1]["secret"])
    told = {
        message["data"]["id"]: message for message in (verifier.verify(body, headers) for headers, body in received)
    }
    assert {job_id: message["type"] for job_id, message in told.items()} == {
        done: "job.succeeded",
        cancelled: "job.cancelled",
        expired: "job.expired",
        picture: "job.succeeded",
    }
    assert told[done]["data"] == product.get(f"/v1/jobs/{done}")[1]
    assert "result" not in told[picture]["data"]
    assert product.metric(r'kamishibai_webhooks_total\{outcome="delivered"') == 4


def test_no_end_is_untold_when_clerk_and_worker_are_killed(product, receiver):
    url, received = receiver
    jobs = [post(product, url) for _ in range(100)]
    victims = [*product.processes("cli.main clerk"), *product.processes("cli.main worker")]
    assert len(victims) == 2
    for process in victims:
        process.send_signal(signal.SIGKILL)
    jobs += [post(product, url) for _ in range(20)]
    wait_until(lambda: len({headers["webhook-id"] for headers, _ in received}) == 120, seconds=150)
    ids = Counter(json.loads(body)["data"]["id"] for _, body in received)
    assert set(ids) == set(jobs)
    assert max(ids.values()) <= 2
