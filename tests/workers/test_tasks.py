"""What becomes of a payload: in the function that a stock RQ worker calls, and where our worker takes it off."""

from __future__ import annotations

import json
import zlib

import pytest

from contracts.enqueue import JOB_FUNCTION
from contracts.errors import InvalidRequest, StoreError
from contracts.requests import ImageRequest, TextRequest
from workers.flight import take_off
from workers.leases import Lease
from workers.tasks import _model, perform


@pytest.fixture(autouse=True)
def served(store, monkeypatch):
    monkeypatch.setenv("KAMISHIBAI_STORE", str(store.root))
    _model.cache_clear()


@pytest.fixture
def text(store):
    return TextRequest(target=store.open("lstm").target(), seed=3, prompt_tokens=(4, 5), max_tokens=20)


def test_the_same_payload_gives_the_same_result(store, text):
    picture = ImageRequest(target=store.open("faces").target(), seed=3, count=2)
    for request in (text, picture):
        payload = request.model_dump(mode="json")
        first = perform(payload)
        assert perform(payload) == first
        _model.cache_clear()
        assert perform(payload) == first
    assert len(first["pictures"]) == 2


def test_the_seed_matters(text):
    results = {
        perform(text.model_copy(update={"seed": seed}).model_dump(mode="json"))["choices"][0]["text"]
        for seed in range(5)
    }
    assert len(results) > 1


def test_a_model_is_loaded_once(text):
    perform(text.model_dump(mode="json"))
    perform(text.model_dump(mode="json"))
    assert (_model.cache_info().misses, _model.cache_info().hits) == (1, 1)


@pytest.mark.parametrize(
    "payload",
    [None, [], "text", {}, {"task": "text"}, {"task": "shell", "command": "true"}],
    ids=repr,
)
def test_a_foreign_payload_is_refused(payload):
    with pytest.raises(InvalidRequest, match="not a request this worker knows"):
        perform(payload)


def test_a_payload_with_other_fields_or_of_another_schema_is_refused(text):
    changes: tuple[dict[str, object], ...] = (
        {"colour": 1},
        {"schema_version": 3},
        {"task": "image"},
        {"prompt_tokens": []},
    )
    for change in changes:
        with pytest.raises(InvalidRequest):
            perform(text.model_dump(mode="json") | change)


def test_a_model_that_is_not_here_is_a_store_error(text):
    target = text.target.model_copy(update={"version": 9})
    with pytest.raises(StoreError, match="lstm@9"):
        perform(text.model_copy(update={"target": target}).model_dump(mode="json"))
    target = text.target.model_copy(update={"variant": "onnx:int8"})
    with pytest.raises(StoreError, match="no variant 'onnx:int8'"):
        perform(text.model_copy(update={"target": target}).model_dump(mode="json"))


@pytest.mark.parametrize("model", ["lstm", "gpt2"])
@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-7])
def test_the_coldest_temperatures_take_the_likeliest_token(store, model, temperature):
    request = TextRequest(target=store.open(model).target(), seed=1, prompt_tokens=(4, 5), max_tokens=9, temperature=0)
    greedy = perform(request.model_dump(mode="json"))
    assert perform(request.model_dump(mode="json") | {"temperature": temperature}) == greedy


def lease_of(request) -> Lease:
    call: list[object] = [JOB_FUNCTION, None, [request.model_dump(mode="json")], {}]
    return Lease("job", "execution", request.target.queue(), zlib.compress(json.dumps(call).encode()), 60.0)


def test_tokens_that_the_model_has_not_are_refused_before_they_meet_the_batch(store, text):
    size = store.open("lstm").tokenizer().vocabulary_size
    perform(text.model_dump(mode="json") | {"prompt_tokens": [0, size - 1]})
    for token in (-1, size, 2**31 - 1, 2**70):
        with pytest.raises(InvalidRequest, match=str(token)):
            perform(text.model_dump(mode="json") | {"prompt_tokens": [0, token]})
        with pytest.raises(InvalidRequest, match=str(token)):
            perform(text.model_dump(mode="json") | {"logit_bias": [[token, 1.0]]})


@pytest.mark.parametrize("echo", [False, True])
def test_a_prompt_of_tokens_that_have_no_text_is_refused_on_take_off(store, text, echo):
    size = store.open("lstm").tokenizer().vocabulary_size
    lease = lease_of(text.model_copy(update={"prompt_tokens": (0, size), "echo": echo}))
    with pytest.raises(InvalidRequest, match=f"Token {size} is not among the model's {size}"):
        take_off(lease, store.open("lstm"), "fingerprint")


def test_a_payload_on_the_queue_of_another_model_is_refused(store, text):
    lease = lease_of(text)
    other = Lease(lease.job_id, lease.execution_id, "gpt2@1/pytorch-fp32/normal", lease.data, 60.0)
    with pytest.raises(InvalidRequest, match="lstm@1/pytorch-fp32 but lay on the queue gpt2@1"):
        take_off(other, store.open("gpt2"), "fingerprint")
    with pytest.raises(InvalidRequest):
        take_off(lease, store.open("faces"), "fingerprint")
