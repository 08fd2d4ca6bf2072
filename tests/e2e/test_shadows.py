"""Versions under traffic in the running product: compared with the same seeds, promoted, rolled back.

What docs/api.md shows of it is run here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cli.shadows import promote, show_shadow
from contracts.bundle import WEIGHTS
from contracts.store import Store
from tests.examples import examples, missing
from workers.embedded_redis import running_url

BASH = shutil.which("bash") or "/bin/bash"
GPT2 = "synopses-gpt2"
MODELS = (GPT2, "faces", "genres")
PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
BEGIN, READ, PROMOTE, ROLL_BACK = (each for each in examples(PAGE) if f"/v1/models/{GPT2}/" in each.code)
FACES = {"model": "faces", "n": 2, "seed": 1}
GENRES = {"model": "genres", "input": ["A pilot in love with the sea.", "the quick brown fox"]}


def completion(seed, model=GPT2):
    return {"model": model, "prompt": "the quick", "max_tokens": 12, "seed": seed, "logprobs": None}


@pytest.fixture(scope="module")
def root(tmp_path_factory, store, classifiers):
    """Three models, each with a candidate whose weights are a little different."""
    made = Store(tmp_path_factory.mktemp("versions"), candidates=True)
    for source, original, name in ((store, "gpt2", GPT2), (store, "faces", "faces"), (classifiers, "genres", "genres")):
        bundle = source.open(original)
        for scale in (1.0, 1.02):
            made.write(name, partial(write_scaled, bundle, scale))
    return made.root


def write_scaled(bundle, scale, folder):
    for file in bundle.manifest.files:
        shutil.copy(bundle.path / file, folder)
    weights = load_file(folder / WEIGHTS)
    save_file({name: (weight * scale).to(weight.dtype) for name, weight in weights.items()}, folder / WEIGHTS)
    return bundle.manifest.model_dump(exclude={"name", "version", "files"}) | {"variants": PLAIN}


PLAIN = [{"format": "pytorch", "precision": "fp32", "files": [WEIGHTS]}]


@pytest.fixture(scope="module")
def product(start_shared_product, root):
    return start_shared_product(root, {"KAMISHIBAI_MODEL_CONTROL": "on"})


@pytest.fixture(scope="module")
def refusal(product):
    """What is said while no worker serves the candidate."""
    return product.post(f"/v1/models/{GPT2}/shadow", {"candidate": "2"})


@pytest.fixture(scope="module")
def candidate(product, root, refusal):
    """A worker that serves the candidates."""
    names = ",".join(f"{name}@2" for name in MODELS)
    command = [sys.executable, "-P", "-m", "cli.main", "worker", "--device", "cpu", "--candidate", "--models", names]
    environment = os.environ | {"KAMISHIBAI_REDIS_URL": str(running_url(root)), "KAMISHIBAI_STORE": str(root)}
    worker = subprocess.Popen(command, env=environment)
    wait_for(lambda: sum(each["ready"] for each in product.get("/v1/workers")[1]["data"]) == 2)
    yield worker
    worker.send_signal(signal.SIGTERM)
    worker.wait(40)


def run(example, product):
    """What an example of the page prints; all that the page shows is in it."""
    code = example.code.replace("127.0.0.1:8000", f"127.0.0.1:{product.port}").replace("curl", "curl -sSf")
    done = subprocess.run([BASH, "-euc", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert missing(example, done.stdout) == [], done.stdout
    return json.loads(done.stdout)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def reports(product, candidate):
    """What was found of each model when a few requests had been compared, and what was answered to those for texts."""
    assert run(BEGIN, product)["running"]
    for name in MODELS[1:]:
        assert product.post(f"/v1/models/{name}/shadow", {"candidate": "2", "share": 1})[0] == 201
    live = [first_drawn(product, GPT2, lambda: answer_of(product, completion(0)))]
    first_drawn(product, "faces", lambda: product.post("/v1/images/generations", FACES))
    first_drawn(product, "genres", lambda: product.post("/v1/classify", GENRES))
    live += [answer_of(product, completion(seed)) for seed in range(1, 8)]

    def done():
        found = {name: report_of(product, name) for name in MODELS}
        counts = {name: report["requests"]["compared"] for name, report in found.items()}
        told = all(speed["first_token_seconds"] for speed in found[GPT2]["speed"].values())  # by the workers
        return counts == {GPT2: 8, "faces": 1, "genres": 1} and found[GPT2]["divergence"]["tokens"] and told

    wait_for(done)
    return {name: report_of(product, name) for name in MODELS} | {"answers": live}


def first_drawn(product, name, send):
    """What is answered to the first request of which the clerk hears; it may take it a moment to listen."""
    while True:
        answer = send()
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            if report_of(product, name)["requests"]["drawn"]:
                return answer
            time.sleep(0.1)


def report_of(product, name):
    return product.get(f"/v1/models/{name}/shadow")[1]


def answer_of(product, body):
    status, answer = product.post("/v1/completions", body)
    assert status == 200, answer
    (choice,) = answer["choices"]
    return choice["text"], choice["finish_reason"]


def test_without_a_worker_that_serves_the_candidate_the_command_for_one_is_named(refusal):
    status, answer = refusal
    assert status == 503
    assert "kamishibai worker --candidate --models synopses-gpt2@2" in answer["error"]["message"]


def test_texts_are_compared_with_the_same_seeds(product, reports):
    report = run(READ, product)
    assert report["requests"] == reports[GPT2]["requests"]
    assert (report["live"], report["candidate"]) == (f"{GPT2}@1/pytorch:fp32", f"{GPT2}@2/pytorch:fp32")
    again = [answer_of(product, completion(seed, f"{GPT2}@2")) for seed in range(8)]
    equal = sum(ours == theirs for ours, theirs in zip(reports["answers"], again, strict=True))
    assert report["requests"]["equal"] == report["parts"]["equal"] == equal < 8
    assert equal / 8 <= report["parts"]["agreement"] < 1
    assert 0 < report["divergence"]["mean"] < report["divergence"]["largest"] < 5
    assert report["divergence"]["deviation"] > 0
    for speed in report["speed"].values():
        assert all(value > 0 for value in speed.values())


def test_pictures_and_labels_are_compared(reports):
    pictures, labels = reports["faces"]["parts"], reports["genres"]["parts"]
    assert pictures["compared"] == labels["compared"] == 2
    for parts in (pictures, labels):
        assert 0 < parts["difference"] <= parts["largest_difference"] < 0.5
    assert (pictures["agreement"], pictures["equal"]) == (None, 0)
    assert 0 <= labels["agreement"] <= 1


def test_the_comparison_is_a_table_and_metrics(product, reports, root, capsys):
    show_shadow(root, GPT2, None)
    out = capsys.readouterr().out
    assert out.startswith(f"{GPT2}@1/pytorch:fp32 is compared with {GPT2}@2/pytorch:fp32 on 100.0% of its requests")
    assert "AGREEMENT" in out
    equal = reports[GPT2]["requests"]["equal"]
    assert product.metric(rf'kamishibai_shadow_requests_total{{model="{GPT2}",outcome="equal"}}') == equal
    mean = product.get(f"/v1/models/{GPT2}/shadow")[1]["divergence"]["mean"]
    assert product.metric(rf'kamishibai_shadow_divergence_nats{{model="{GPT2}"}}') == mean


def test_copies_are_jobs_of_no_client(product, reports):
    assert product.get("/v1/jobs")[1]["data"] == []


def test_what_was_accepted_stays_where_it_is_when_the_candidate_is_promoted_and_rolled_back(
    product, reports, root, capsys
):
    long = {"prompt": "the quick", "max_tokens": 200, "n": 16, "seed": 1}
    accepted = product.post("/v1/jobs", {"model": GPT2, "input": long})[1]["id"]
    assert run(PROMOTE, product)["version"] == 2
    wait_for(lambda: version_of_new_requests(product) == 2, seconds=3)
    assert product.get(f"/v1/jobs/{accepted}?wait=30")[1]["version"] == 1
    assert product.get(f"/v1/models/{GPT2}/shadow")[1]["running"] is False
    choice = run(ROLL_BACK, product)
    assert (choice["version"], choice["before"]) == (1, f"{GPT2}@2/pytorch:fp32")
    wait_for(lambda: version_of_new_requests(product) == 1, seconds=30)
    promote(root, GPT2, "2", None)
    assert f"{GPT2}@2 is what new requests run on (it was {GPT2}@1)" in capsys.readouterr().out
    wait_for(lambda: version_of_new_requests(product) == 2, seconds=30)


def version_of_new_requests(product):
    status, job = product.post("/v1/jobs", {"model": GPT2, "input": {"prompt": "the", "max_tokens": 1}})
    assert status == 202
    return job["version"]
