"""The engines: a request's output is its own, whoever shares the batch."""

from __future__ import annotations

import random

import pytest
import torch

from contracts.requests import ImageRequest, TextRequest
from workers.engines import Delta, Done, Failed
from workers.engines.loading import load_engine
from workers.scheduler import Scheduler


@pytest.fixture(scope="module")
def bundles(store):
    return {name: store.open(name) for name in store.names()}


def engine_of(bundle, call_seconds=0.02):
    engine = load_engine(bundle, "pytorch:fp32", torch.device("cpu"))
    vars(engine)["_call_seconds"] = call_seconds
    return engine


def text_request(bundle, number):
    """Requests that differ in everything."""
    rng = random.Random(number)
    length = rng.choice([1, 2, 5, 31, 32, 33, 34, 64, 65, 100])
    vocabulary = bundle.tokenizer().vocabulary_size
    return TextRequest(
        target=bundle.target(),
        seed=rng.randrange(2**63),
        prompt_tokens=tuple(rng.randrange(1, vocabulary) for _ in range(length)),
        max_tokens=rng.randint(1, 60),
        temperature=rng.choice([0.0, 0.7, 1.0, 1.5]),
        top_k=rng.choice([0, 0, 3, 40, 1000]),
        top_p=rng.choice([1.0, 0.9, 0.5]),
    )


def run_all(engine, requests, arrivals):
    """Run requests, number i entering before call arrivals[i]. Returns tokens or pixels by request."""
    scheduler = Scheduler({"model": engine})
    output: dict[str, list[object]] = {name: [] for name in requests}
    done: dict[str, object] = {}
    call = 0
    while len(done) < len(requests):
        for name, request in requests.items():
            if arrivals[name] == call:
                scheduler.submit("model", name, request)
        scheduler.admit(done.__setitem__)
        for _ in scheduler.due():
            for event in engine.collect(engine.launch()).events:
                if isinstance(event, Delta):
                    output[event.job_id] += event.tokens + event.pictures
                elif isinstance(event, Done):
                    done[event.job_id] = event.finish_reason
                else:
                    assert not isinstance(event, Failed)
        call += 1
    return output, done


@pytest.mark.parametrize("name", ["lstm", "gpt2"])
def test_texts_are_the_same_alone_and_in_any_company(bundles, name):
    bundle = bundles[name]
    requests = {str(number): text_request(bundle, number) for number in range(40)}
    alone: dict[str, list[object]] = {}
    engine = engine_of(bundle)
    for number, request in requests.items():
        alone |= run_all(engine, {number: request}, {number: 0})[0]
    for trial in range(2):
        rng = random.Random(trial)
        arrivals = {number: rng.randrange(20) for number in requests}
        together, _ = run_all(engine_of(bundle, rng.choice([0.0, 0.002, 0.02])), requests, arrivals)
        assert together == alone


def test_pictures_are_the_same_alone_and_in_any_company(bundles):
    bundle = bundles["faces"]
    requests = {str(n): ImageRequest(target=bundle.target(), seed=n * 7, count=1 + n % 9) for n in range(30)}
    engine = engine_of(bundle)
    alone: dict[str, list[object]] = {}
    for number, request in requests.items():
        alone |= run_all(engine, {number: request}, {number: 0})[0]
    assert [len(alone[number]) for number in requests] == [request.count for request in requests.values()]
    together, _ = run_all(engine_of(bundle), requests, {number: int(number) // 4 for number in requests})
    assert together == alone


def test_a_removed_request_leaves_the_others_alone(bundles):
    bundle = bundles["gpt2"]
    engine = engine_of(bundle, call_seconds=0.0)
    request = text_request(bundle, 3).model_copy(update={"max_tokens": 30})
    alone, _ = run_all(engine, {"kept": request}, {"kept": 0})
    engine.add("kept", request)
    engine.add("removed", text_request(bundle, 4))
    tokens = []
    for step in range(100):
        if step == 5:
            engine.remove("removed")
            engine.add("late", text_request(bundle, 5))  # takes the freed slot
        for event in engine.collect(engine.launch()).events if engine.busy else []:
            if event.job_id == "kept" and isinstance(event, Delta):
                tokens += event.tokens
    assert tokens == alone["kept"]


def test_max_tokens_and_the_end_token_end_a_text(bundles):
    bundle = bundles["gpt2"]
    engine = engine_of(bundle)
    reasons = set()
    for number in range(12):
        request = text_request(bundle, number).model_copy(update={"max_tokens": 100, "temperature": 1.5, "top_k": 0})
        output, done = run_all(engine, {"x": request}, {"x": 0})
        reasons.add(done["x"])
        assert (output["x"][-1] == bundle.tokenizer().end_token) == (done["x"] == "stop")
        assert len(output["x"]) == 100 or done["x"] == "stop"
    assert "length" in reasons


def test_a_call_is_bounded_and_several_steps_share_one(bundles):
    engine = engine_of(bundles["lstm"], call_seconds=0.02)
    engine.add("x", text_request(bundles["lstm"], 1).model_copy(update={"max_tokens": 4000, "prompt_tokens": (5,)}))
    call = engine.collect(engine.launch())
    assert call.units > 1
    assert call.batch_size == 1
    assert call.seconds < 1


def test_requests_wait_for_a_slot_instead_of_failing(bundles):
    bundle = bundles["lstm"]
    engine = engine_of(bundle)
    requests = {str(n): text_request(bundle, n) for n in range(engine.capacity + 20)}
    output, done = run_all(engine, requests, dict.fromkeys(requests, 0))
    assert set(done) == set(requests)
    assert all(output.values())


def test_a_request_for_the_other_task_is_refused_by_name(bundles):
    refused: dict[str, Exception] = {}
    scheduler = Scheduler({"model": engine_of(bundles["faces"])})
    scheduler.submit("model", "wrong", text_request(bundles["lstm"], 0))
    scheduler.submit("model", "right", ImageRequest(target=bundles["faces"].target(), seed=1, count=1))
    scheduler.admit(refused.__setitem__)
    assert "text request" in str(refused["wrong"])
    assert scheduler.busy
