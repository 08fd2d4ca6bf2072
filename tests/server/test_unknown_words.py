"""What a prompt's unknown words and characters become is the bundle's to say; none of it is an error of ours."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from contracts.announcements import Announcement, ServedModel, announce
from contracts.bundle import TOKENIZER, WEIGHTS, Example, Limits, Variant
from contracts.connection import connect
from contracts.jobs import JobQueue
from contracts.requests import TextRequest
from contracts.settings import Settings
from contracts.store import Store
from contracts.tokenizers import CharacterTokenizer, UnknownPolicy, WordTokenizer
from server.app import create_app

POLICIES = get_args(UnknownPolicy)
WORDS = ["the", "old", "town", ",", "<unk>"]
CHARACTERS = "adehlnotw ?"


@pytest.fixture
def ask(redis, redis_url, tmp_path):
    """Post a prompt to one of six models; its tokens as they are queued for a worker, or the error."""
    store = Store(tmp_path / "store")
    for unknown in POLICIES:
        store.write(f"words-{unknown}", fill_with(WordTokenizer(WORDS, unknown, unknown_token="<unk>")))
        store.write(f"characters-{unknown}", fill_with(CharacterTokenizer(CHARACTERS, unknown, "?")))
    bundles = map(store.open, store.names())
    served = tuple(ServedModel(target=bundle.target(), task="text", digest=bundle.digest) for bundle in bundles)
    announce(redis, Announcement(worker="worker-1", device="cpu", ready=True, models=served))
    client = create_app(Settings(store=store.root, redis_url=redis_url)).test_client()
    jobs = JobQueue(connect(redis_url))

    def post(model, prompt):
        answer = client.post("/v1/jobs", json={"model": model, "input": {"prompt": prompt}})
        if answer.status_code == 202:
            request = jobs.read(answer.get_json()["id"]).request
            assert isinstance(request, TextRequest)
            return list(request.prompt_tokens)
        assert answer.status_code == 400
        return answer.get_json()["error"]["message"]

    return post


def fill_with(tokenizer):
    def fill(folder):
        (folder / WEIGHTS).write_bytes(b"weights")
        tokenizer.write(folder / TOKENIZER)
        return {
            "family": "lstm",
            "task": "text",
            "config": {},
            "limits": Limits(max_tokens=32),
            "tokenizer": tokenizer.kind,
            "variants": (Variant(format="pytorch", precision="fp32", files=(WEIGHTS,)),),
            "example": Example(prompt="the"),
        }

    return fill


def test_unknown_words_are_skipped_replaced_or_refused(ask):
    prompt = "The cold, old Town"
    assert ask("words-skip", prompt) == [0, 3, 1, 2]
    assert ask("words-replace", prompt) == [0, 4, 3, 1, 2]
    assert ask("words-error", prompt) == "This model does not know the words 'cold'; leave them out."


def test_unknown_characters_are_skipped_replaced_or_refused(ask):
    known = [CHARACTERS.index(character) for character in "the old town"]
    assert ask("characters-skip", "the cold town") == known
    assert ask("characters-replace", "the cold town") == [*known[:4], CHARACTERS.index("?"), *known[4:]]
    assert ask("characters-error", "the cold town") == "This model does not know the characters 'c'; leave them out."


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_a_prompt_of_which_nothing_is_left_is_refused(ask, kind):
    assert ask(f"{kind}-skip", "XYZ").startswith(f"'prompt' holds nothing that {kind}-skip can read")
    assert "'X" in ask(f"{kind}-error", "XYZ").replace("'x", "'X")
    assert ask(f"{kind}-replace", "XYZ") == ([4] if kind == "words" else [10] * 3)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["words", "characters"]),
    unknown=st.sampled_from(POLICIES),
    prompt=st.text(min_size=1) | st.text("the old,<unk>?\ud800", min_size=1),
)
def test_no_prompt_makes_the_server_fail(ask, kind, unknown, prompt):
    assert ask(f"{kind}-{unknown}", prompt)
