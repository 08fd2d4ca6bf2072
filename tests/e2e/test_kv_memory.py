"""A small KV cache: requests wait for room in it, and a model that has none at all is not offered."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from contracts.requests import TextRequest
from models.runtimes.pytorch import load_text
from workers.local import LocalModel

SLOT_BYTES = 2 * 2 * 256 * 32 * 4  # keys and values of the tiny gpt2: layers, context, width, fp32


@pytest.fixture(scope="module")
def alone(store):
    """The texts that a body gets alone, in a cache of the usual size."""
    model = LocalModel(store.open("gpt2"))

    def texts(body):
        fields = {name: value for name, value in body.items() if name not in {"model", "prompt"}}
        tokens = tuple(model.bundle.tokenizer().encode(body["prompt"]))
        request = TextRequest(target=model.bundle.target(), prompt_tokens=tokens, **fields)
        return [choice.text for choice in model.text(request).choices]

    return texts


def body_of(number):
    rng = random.Random(number)
    return {
        "model": "gpt2",
        "prompt": "the quick brown fox jumps over the lazy dog "[: rng.randint(1, 44)],
        "max_tokens": rng.randint(20, 80),
        "temperature": rng.choice([0.0, 1.0]),
        "n": rng.choice([1, 1, 2, 4]),
        "seed": number,
    }


def test_40_clients_of_4_slots_wait_and_each_gets_the_answer_it_gets_alone(start_product, alone):
    product = start_product("--kv-memory", str(5 * SLOT_BYTES))  # slots come by fours
    product.wait_ready()
    with ThreadPoolExecutor(40) as clients:
        answers = list(clients.map(lambda number: product.post("/v1/completions", body_of(number)), range(40)))
    for number, (status, answer) in enumerate(answers):
        assert status == 200, answer
        assert [choice["text"] for choice in answer["choices"]] == alone(body_of(number)), f"request {number}"
    status, answer = product.post("/v1/completions", body_of(0) | {"n": 5})
    assert status == 400
    assert "'n' is 5, but this worker's cache has room for 4 texts" in answer["error"]["message"]
    time.sleep(3.5)  # workers announce their counters every 3 s
    calls = product.metric(r'kamishibai_batch_size_count{.*model="gpt2"')
    of_up_to = [product.metric(rf'kamishibai_batch_size_bucket{{le="{n}.0",model="gpt2"') for n in (2, 4)]
    assert of_up_to[0] < of_up_to[1] == calls, "batches of three or four, and none of more"


def test_the_bytes_of_a_slot_are_as_these_tests_count_them(store):
    assert load_text(store.open("gpt2"), torch.device("cpu"), 8 * SLOT_BYTES - 1).slots == 4
    assert load_text(store.open("gpt2"), torch.device("cpu"), 8 * SLOT_BYTES).slots == 8


def test_a_model_whose_cache_does_not_fit_is_answered_at_once_and_the_others_are_served(start_product):
    product = start_product("--kv-memory", str(4 * SLOT_BYTES - 1))
    product.wait_ready()
    for path, body in (("/v1/completions", body_of(1)), ("/v1/jobs", {"model": "gpt2", "input": {"prompt": "the"}})):
        status, answer = product.post(path, body)
        assert status == 503
        assert "No ready worker serves 'gpt2'" in answer["error"]["message"]
    status, answer = product.post("/v1/completions", body_of(1) | {"model": "lstm"})
    assert status == 200, answer
    assert [model["id"] for model in product.get("/v1/models")[1]["data"]] == ["faces", "lstm"]
