"""Classifiers as a user meets them: `up` on imported checkpoints, HTTP, many clients, replay."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from cli.classify import request_of
from workers.local import LocalModel

TEXTS = ["A pilot in love with the sea.", "the quick brown fox " * 30, "", "höher 日本", "jumps over the lazy dog " * 4]


@pytest.fixture(scope="module")
def local(classifiers):
    return {name: LocalModel(classifiers.open(name)) for name in classifiers.names()}


@pytest.fixture
def running(start_product, classifiers):
    product = start_product(root=classifiers.root)
    product.wait_ready()
    return product


def test_many_clients_get_what_each_gets_alone(running, local):
    def asked(number):
        return ("genres", "mood")[number % 2], (TEXTS * 2)[number % 5 :][: 1 + number % 7], 1 + number % 5

    def ask(number):
        name, texts, top_k = asked(number)
        return running.post("/v1/classify", {"model": name, "input": texts, "top_k": top_k})

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, range(60)))
    for number, (status, answer) in enumerate(answers):
        assert status == 200, answer
        name, texts, top_k = asked(number)
        expected = local[name].labels(request_of(local[name], tuple(texts), None, top_k))
        assert answer["data"] == [
            {"index": index, **each.model_dump(mode="json")} for index, each in enumerate(expected.classifications)
        ]
        assert answer["system_fingerprint"] == expected.fingerprint


def test_a_job_can_be_replayed(running, classifiers):
    status, job = running.post("/v1/jobs", {"model": "genres", "input": {"input": TEXTS}})
    assert status == 202
    _, ended = running.get(f"/v1/jobs/{job['id']}?wait=30")
    assert ended["status"] == "succeeded"
    assert len(ended["result"]["data"]) == len(TEXTS)
    command = [sys.executable, "-P", "-m", "cli.main", "replay", job["id"], "--store", str(classifiers.root)]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"identical ({ended['result']['system_fingerprint']})\n", done.stderr


def test_onnx_variants_are_served(start_product, classifiers):
    product = start_product("--variant", "onnx:fp32", root=classifiers.root)
    product.wait_ready()
    local = LocalModel(classifiers.open("mood"), "onnx:fp32")
    status, answer = product.post("/v1/classify", {"model": "mood", "input": TEXTS})
    expected = local.labels(request_of(local, tuple(TEXTS), None, None))
    assert status == 200
    assert [each["scores"] for each in answer["data"]] == [
        each.model_dump(mode="json")["scores"] for each in expected.classifications
    ]
