"""What users of other servers and of RQ have met, each as a test of its own with the thread that tells of it."""

from __future__ import annotations

import http.client
import json
import signal
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from contracts.connection import MOST_CONNECTIONS
from contracts.requests import TextRequest
from tests.e2e.conftest import Product
from workers.embedded_redis import running_url
from workers.leases import LEASE_SECONDS
from workers.local import LocalModel

LONG = {"model": "lstm", "prompt": "A story", "max_tokens": 3000, "seed": 7}


@pytest.fixture(scope="module")
def product(store):
    """One for all tests here: each leaves it well."""
    product = Product(store.root)
    product.wait_ready()
    yield product
    product.stop()


@pytest.fixture(scope="module")
def redis(product, store):
    url = running_url(store.root)
    assert url is not None
    with Redis.from_url(url) as client:
        yield client


@pytest.fixture(scope="module")
def alone(store):
    """The text that a body gets alone."""
    model = LocalModel(store.open("lstm"))

    def text(body):
        tokens = tuple(model.bundle.tokenizer().encode(body["prompt"]))
        fields = {"max_tokens": body["max_tokens"], "seed": body["seed"]}
        request = TextRequest(target=model.bundle.target(), prompt_tokens=tokens, **fields)
        return model.text(request).choices[0].text

    return text


@contextmanager
def stream(product, body):
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=60)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True}), headers)
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def text_of(answer):
    """The whole text of a stream that ends well."""
    text = ""
    for line in answer:
        if line == b"data: [DONE]\n":
            return text
        if line.startswith(b"data: "):
            text += json.loads(line.removeprefix(b"data: "))["choices"][0]["text"]
    raise AssertionError(f"the stream broke off after {text!r}")


def in_flight(redis):
    return [entry.decode() for book in redis.scan_iter("rq:wip:*") for entry in redis.zrange(book, 0, -1)]


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_dead_worker_behind_a_healthy_healthz_is_told_by_readyz_and_refuses_at_once(product):
    """https://github.com/Lightning-AI/LitServe/pull/532"""
    (worker,) = product.processes("cli.main worker")
    worker.suspend()
    try:
        until(lambda: product.get("/readyz")[0] == 503, seconds=25)
        assert product.get("/healthz")[0] == 200
        began = time.monotonic()
        status, answer = product.post("/v1/completions", LONG)
        assert (status, answer["error"]["code"]) == (503, "no_worker")
        assert time.monotonic() - began < 2
    finally:
        worker.resume()
    product.wait_ready()


def test_a_server_that_is_not_ready_refuses_instead_of_letting_clients_hang(start_product, demo_store):
    """https://github.com/Lightning-AI/LitServe/issues/681"""
    product = start_product(root=demo_store.root)
    until(lambda: product.get("/healthz")[0] == 200)
    began = time.monotonic()
    status, answer = product.post("/v1/completions", {"model": "synopses-lstm", "prompt": "a", "max_tokens": 1})
    if status != 200:  # the worker may have been quick
        assert (status, answer["error"]["code"]) in {(503, "no_worker"), (503, "queue_unavailable")}
        assert time.monotonic() - began < 2


def test_workers_that_die_again_and_again_recover(product, alone):
    """https://github.com/pytorch/serve/issues/2357"""
    for _ in range(3):
        until(lambda: product.processes("workers.engine_child"))
        product.processes("workers.engine_child")[0].kill()
        time.sleep(0.3)
    status, answer = product.post("/v1/completions", LONG)
    assert (status, answer["choices"][0]["text"]) == (200, alone(LONG))


def test_one_disconnect_does_not_crash_the_batch(product, alone):
    """https://github.com/openvinotoolkit/model_server/issues/4428"""
    (child,) = product.processes("workers.engine_child")
    bodies = [{**LONG, "seed": seed} for seed in range(8)]

    def read(body):
        with stream(product, body) as answer:
            return text_of(answer)

    def leave(body):
        with stream(product, body) as answer:
            answer.readline()

    with ThreadPoolExecutor(16) as clients:
        texts = [clients.submit(read, body) for body in bodies]
        for seed in range(8):
            clients.submit(leave, {**LONG, "seed": 100 + seed})
    assert [text.result() for text in texts] == [alone(body) for body in bodies]
    assert product.processes("workers.engine_child") == [child]


def test_the_same_request_id_twice_does_not_mix_two_requests(product, alone):
    """https://github.com/huggingface/transformers/pull/48918"""
    bodies = [{**LONG, "seed": seed} for seed in range(6)]

    def post(body):
        headers = {"Content-Type": "application/json", "x-request-id": "the-same"}
        request = urllib.request.Request(f"{product.url}/v1/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers["x-request-id"] == "the-same"
            return json.loads(answer.read())["choices"][0]["text"]

    with ThreadPoolExecutor(6) as clients:
        assert list(clients.map(post, bodies)) == [alone(body) for body in bodies]


def test_clients_that_leave_their_streams_leave_no_redis_client_behind(product, redis):
    """https://github.com/singingwolfboy/flask-sse/issues/6"""
    with stream(product, LONG) as answer:
        text_of(answer)
    before = len(redis.client_list())

    def leave(seed):
        with stream(product, {**LONG, "seed": seed}) as answer:
            answer.readline()

    for _ in range(3):
        with ThreadPoolExecutor(16) as clients:
            list(clients.map(leave, range(48)))
        until(lambda: not in_flight(redis))
    # Connections are pooled: a pool's worth may stay after 144 have left, and one subscription serves all.
    assert len(redis.client_list()) <= before + MOST_CONNECTIONS
    assert sum(client["sub"] != "0" for client in redis.client_list()) == 2  # the server's and the worker's


def test_a_slow_reader_holds_up_nobody(product, alone):
    """https://github.com/singingwolfboy/flask-sse/issues/6"""
    with stream(product, LONG) as slow:
        slow.readline()
        status, answer = product.post("/v1/completions", {**LONG, "seed": 8})
        assert (status, answer["choices"][0]["text"]) == (200, alone({**LONG, "seed": 8}))
        assert text_of(slow) == alone(LONG)


def test_a_job_that_runs_for_longer_than_a_lease_is_not_called_abandoned(product, redis, alone):
    """https://github.com/rq/rq/issues/2289"""
    _, job = product.post("/v1/jobs", {"model": "lstm", "input": {k: v for k, v in LONG.items() if k != "model"}})
    until(lambda: in_flight(redis))
    (child,) = product.processes("workers.engine_child")
    child.suspend()
    try:
        ends = time.monotonic() + LEASE_SECONDS + 3
        while time.monotonic() < ends:
            for queue in Queue.all(connection=redis, serializer=JSONSerializer):
                StartedJobRegistry(queue=queue).cleanup()  # what RQ's workers and dashboards do
            time.sleep(0.5)
    finally:
        child.resume()
    _, ended = product.get(f"/v1/jobs/{job['id']}?wait=30")
    assert ended["result"]["choices"][0]["text"] == alone(LONG)
    assert Job.fetch(job["id"], connection=redis, serializer=JSONSerializer).retries_left == 3


def test_no_job_is_lost_or_stuck_in_an_intermediate_queue_when_its_worker_is_killed(product, redis):
    """https://github.com/rq/rq/issues/2015, /2061, and over several queues at once /1716"""
    inputs = {"lstm": {"prompt": "A story", "max_tokens": 1500}, "gpt2": {"prompt": "the", "max_tokens": 200}}
    inputs["faces"] = {"n": 8}
    ids = []
    for number in range(60):
        model = sorted(inputs)[number % 3]
        status, job = product.post("/v1/jobs", {"model": model, "input": {**inputs[model], "seed": number}})
        assert status == 202
        ids.append(job["id"])
        if number == 40:
            product.processes("cli.main worker")[0].send_signal(signal.SIGKILL)
    for job_id in ids:
        assert product.get(f"/v1/jobs/{job_id}?wait=60")[1]["status"] == "succeeded"
    assert not in_flight(redis)
    assert not list(redis.scan_iter("*intermediate*"))
