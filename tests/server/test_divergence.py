"""The divergence of two distributions of which only the likeliest tokens are known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.results import Logprobs
from server.divergence import divergence, divergences


@st.composite
def two_distributions(draw):
    """Of one vocabulary, and how many of its likeliest tokens are known."""
    size = draw(st.integers(2, 12))
    logits = [draw(st.lists(st.floats(-12, 12), min_size=size, max_size=size)) for _ in range(2)]
    return *(normalised(each) for each in logits), draw(st.integers(1, size))


def normalised(logits):
    most = max(logits)
    total = most + math.log(sum(math.exp(each - most) for each in logits))
    return [each - total for each in logits]


def likeliest(logprobs, count):
    return {str(token): logprobs[token] for token in sorted(range(len(logprobs)), key=lambda t: -logprobs[t])[:count]}


@given(two_distributions())
def test_it_is_never_more_than_the_true_one_and_equal_to_it_where_all_is_known(drawn):
    live, candidate, known = drawn
    true = sum(math.exp(p) * (p - q) for p, q in zip(live, candidate, strict=True))
    found = divergence(likeliest(live, known), likeliest(candidate, known))
    assert -1e-9 <= found <= true + 1e-4
    everything = divergence(likeliest(live, len(live)), likeliest(candidate, len(live)))
    assert everything == pytest.approx(true, abs=1e-4)


def test_what_only_one_names_is_one_outcome_with_all_the_rest():
    assert divergence({"a": 0.0}, {"b": 0.0}) == 0, "nothing is known of both"
    assert divergence({"a": 0.0, "b": -20.0}, {"b": 0.0, "a": -20.0}) > 19
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence({"a": math.log(0.5), "b": -2.0}, {"a": math.log(0.25), "c": -2.0}) == pytest.approx(expected)


def test_tokens_of_the_prompt_are_left_out():
    def scores(second):
        rows = [None, {"a": -5.0}, {"a": second}]
        return Logprobs(tokens=list("abc"), token_logprobs=[None, -1.0, -1.0], top_logprobs=rows, text_offset=[0, 1, 2])

    (found,) = divergences(scores(-1.0), scores(-2.0), begin=2)
    assert found == divergence({"a": -1.0}, {"a": -2.0})
    assert len(list(divergences(scores(-1.0), scores(-2.0), begin=0))) == 2, "the first token has no distribution"
