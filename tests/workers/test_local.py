"""Many texts in this process: each gets what it gets alone, and whatever ends a run leaves the model usable."""

from __future__ import annotations

import math
import random

import pytest
import torch

from contracts.errors import EngineFailed, InvalidRequest
from contracts.requests import TextRequest
from workers.local import LocalModel


@pytest.fixture(scope="module", params=["lstm", "gpt2"])
def model(request, store) -> LocalModel:
    return LocalModel(store.open(request.param))


def requests_for(model, count):
    """More than there are slots, of all lengths and kinds."""
    rng = random.Random(5)
    return [
        TextRequest(
            target=model.bundle.target(),
            seed=number,
            prompt_tokens=tuple(rng.randrange(1, 60) for _ in range(rng.choice([1, 5, 40]))),
            max_tokens=rng.randint(1, 60),
            temperature=rng.choice([0.0, 0.7, 1.0, 1.3]),
            top_p=rng.choice([1.0, 0.9]),
            echo=rng.choice([False, True]),
            logprobs=rng.choice([None, None, 1]),
            stop=rng.choice([(), (), ("e",)]),
            n=(choices := rng.choice([1, 1, 1, 3])),
            num_beams=rng.choice([1, 4]) if choices == 3 else 1,
        )
        for number in range(count)
    ]


def test_each_of_many_texts_is_the_one_that_it_is_alone(model):
    requests = requests_for(model, 75)
    together = list(model.texts(requests))
    assert sorted(place for place, _ in together) == list(range(75))
    for place, result in together:
        assert result == model.text(requests[place]), f"text {place}"


def test_a_text_comes_as_soon_as_it_has_ended_and_others_take_its_place(model):
    short, long = (
        TextRequest(target=model.bundle.target(), seed=1, prompt_tokens=(5,), max_tokens=most) for most in (1, 120)
    )
    places = [place for place, _ in model.texts([long, *[short] * 200])]
    assert places[-1] == 0
    assert places[:-1] == list(range(1, 201))


def test_without_requests_nothing_comes(model):
    assert list(model.texts([])) == []


def test_one_that_cannot_be_run_raises_and_leaves_the_model_usable(model):
    requests = requests_for(model, 5)
    unknown = requests[0].model_copy(update={"prompt_tokens": (9999,)})
    with pytest.raises(InvalidRequest, match="9999"):
        list(model.texts([*requests, unknown]))
    assert dict(model.texts(requests)) == {place: model.text(request) for place, request in enumerate(requests)}


def test_one_that_fails_raises_and_leaves_the_model_usable(model, monkeypatch):
    requests = requests_for(model, 5)
    decode = model._engine._backend.decode
    with monkeypatch.context() as patch:
        patch.setattr(model._engine._backend, "decode", lambda *step: torch.full_like(decode(*step), math.nan))
        with pytest.raises(EngineFailed, match="not numbers"):
            list(model.texts(requests))
    assert dict(model.texts(requests)) == {place: model.text(request) for place, request in enumerate(requests)}


def test_whoever_leaves_early_leaves_an_empty_engine(model):
    requests = requests_for(model, 100)
    texts = model.texts(requests)
    next(texts)
    texts.close()
    assert not model._engine.busy
    assert model.text(requests[3]) == dict(model.texts(requests))[3]
