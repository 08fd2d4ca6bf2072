"""Many clients, one queue, shared batches; and what happens when parts of the product are killed."""

from __future__ import annotations

import base64
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from contracts.requests import ImageRequest, TextRequest
from workers.local import LocalModel


def body_of(number):
    """Requests over the three models, each with settings and a seed of its own."""
    rng = random.Random(number)
    if number % 3 == 2:
        return "/v1/images/generations", {"model": "faces", "n": rng.randint(1, 6), "seed": number}
    name = ("lstm", "gpt2")[number % 3]
    prompt = "the quick brown fox jumps over the lazy dog " * 3
    return "/v1/completions", {
        "model": name,
        "prompt": prompt[: rng.randint(1, 120)],
        "max_tokens": rng.randint(1, 80),
        "seed": number,
        **rng.choice([{"temperature": 1}, {"temperature": 0}, {"top_k": 5}, {"top_p": 0.8, "temperature": 1.3}]),
    }


@pytest.fixture(scope="module")
def expected(store):
    """The answer that a request gets alone, by its number."""
    models = {name: LocalModel(store.open(name)) for name in store.names()}

    def alone(number):
        _, body = body_of(number)
        model = models[body["model"]]
        target = model.bundle.target()
        if body["model"] == "faces":
            pictures = model.pictures(ImageRequest(target=target, seed=number, count=body["n"]))
            return [base64.b64encode(picture).decode() for picture in pictures]
        fields = {key: value for key, value in body.items() if key in {"max_tokens", "temperature", "top_k", "top_p"}}
        if "temperature" in fields:
            fields["temperature"] = float(fields["temperature"])
        tokens = tuple(model.bundle.tokenizer().encode(body["prompt"]))
        return model.text(TextRequest(target=target, seed=number, prompt_tokens=tokens, **fields)).choices[0].text

    return alone


def content_of(answer):
    return [item["b64_json"] for item in answer["data"]] if "data" in answer else answer["choices"][0]["text"]


def test_64_clients_share_batches_and_each_gets_the_answer_it_gets_alone(product, expected):
    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(lambda number: product.post(*body_of(number)), range(192)))
    for number, (status, answer) in enumerate(answers):
        assert status == 200, answer
        assert content_of(answer) == expected(number), f"request {number} was changed by its neighbours"
    time.sleep(3.5)  # workers announce their counters every 3 s
    for name in ("lstm", "gpt2", "faces"):
        calls = product.metric(rf'kamishibai_batch_size_count{{.*model="{name}"')
        single = product.metric(rf'kamishibai_batch_size_bucket{{le="1.0",model="{name}"')
        assert calls > single, f"no batch of {name} was shared"


@pytest.mark.parametrize("victim", ["workers.engine_child", "cli.main worker"])
def test_every_accepted_job_ends_once_with_its_right_result_when_a_part_is_killed(product, expected, victim):
    accepted = {}
    done = threading.Event()

    def submit():
        number = 0
        while not done.is_set():
            _, body = body_of(number)
            model = body.pop("model")
            status, answer = product.post("/v1/jobs", {"model": model, "input": body})
            assert status == 202, answer
            accepted[number] = answer["id"]
            number += 1
            time.sleep(0.02)

    client = threading.Thread(target=submit)
    client.start()
    for _ in range(2):
        time.sleep(1.5)
        (process,) = product.processes(victim)
        process.send_signal(signal.SIGKILL)
    time.sleep(2)
    done.set()
    client.join()
    assert len(accepted) > 50
    for number, job_id in accepted.items():
        status, job = product.get(f"/v1/jobs/{job_id}?wait=60")
        assert (status, job["status"]) == (200, "succeeded"), job
        assert content_of(job["result"]) == expected(number)
        assert product.get(f"/v1/jobs/{job_id}")[1] == job, "an ended job does not change"
    assert product.processes(victim), "the part that died runs again"


def test_a_killed_redis_loses_no_accepted_job(product, expected):
    accepted = {}
    for number in range(60):
        _, body = body_of(number)
        model = body.pop("model")
        status, answer = product.post("/v1/jobs", {"model": model, "input": body})
        assert status == 202
        accepted[number] = answer["id"]
    (redis,) = product.processes("redis.sock")
    redis.send_signal(signal.SIGKILL)
    product.wait_ready()
    for number, job_id in accepted.items():
        deadline = time.monotonic() + 60
        while True:
            status, job = product.get(f"/v1/jobs/{job_id}?wait=20")
            if status == 200 and job["status"] not in {"queued", "running"}:
                break
            assert time.monotonic() < deadline, (status, job)
            time.sleep(0.2)
        assert job["status"] == "succeeded"
        assert content_of(job["result"]) == expected(number)


def test_sigterm_stops_all_parts_in_order_and_leaves_no_process(start_product):
    product = start_product()
    product.wait_ready()
    children = psutil.Process(product.process.pid).children(recursive=True)
    assert len(children) >= 5  # Redis, worker, engine child, gunicorn and its worker
    _, job = product.post("/v1/jobs", {"model": "lstm", "input": {"prompt": "a", "max_tokens": 30}})
    assert product.stop() == 0
    assert not psutil.wait_procs(children, timeout=5)[1]
    again = start_product()
    again.wait_ready()
    assert again.get(f"/v1/jobs/{job['id']}?wait=30")[1]["status"] == "succeeded", "jobs outlive a restart"


def test_parts_do_not_outlive_a_killed_supervisor(start_product):
    product = start_product()
    product.wait_ready()
    children = psutil.Process(product.process.pid).children(recursive=True)
    product.process.kill()
    assert not psutil.wait_procs(children, timeout=40)[1]


def test_a_second_up_on_the_same_store_refuses(product, store):
    second = subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", "up", "--store", str(store.root), "--port", str(product.port)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert second.returncode == 1
    assert f"in use by process {product.process.pid}" in second.stderr


def test_several_workers_share_one_queue(start_product, expected):
    product = start_product("--workers", "2")
    product.wait_ready()
    deadline = time.monotonic() + 60
    while product.metric("kamishibai_workers_ready") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda number: product.post(*body_of(number)), range(96)))
    for number, (status, answer) in enumerate(answers):
        assert status == 200, answer
        assert content_of(answer) == expected(number)
    assert base64.b64decode(content_of(answers[2][1])[0]).startswith(b"\x89PNG")


def test_a_port_in_use_is_named_at_once(product, demo_store):
    second = subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", "up", "--store", str(demo_store.root), "--port", str(product.port)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{product.port}" in second.stderr
    assert "--port" in second.stderr
