"""Labels: what logits say of a text."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.labels import Labels, likeliest_first

NAMES = ("Action", "Comedy", "Drama")
logits = st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3)


def labels(activation="sigmoid", names=NAMES):
    return Labels(names=names, activation=activation, threshold=0.5)


@given(logits)
def test_probabilities_are_those_of_pytorch(values):
    exact = torch.tensor(values, dtype=torch.float64)
    assert labels("sigmoid").probabilities(values) == pytest.approx(torch.sigmoid(exact).tolist(), abs=1e-12)
    assert labels("softmax").probabilities(values) == pytest.approx(torch.softmax(exact, -1).tolist(), abs=1e-12)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_logits_that_are_no_numbers_have_no_probabilities(activation):
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="not finite"):
            labels(activation).probabilities([0.0, bad, 0.0])


@given(st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=3, max_size=3), st.floats(0, 1))
def test_labels_that_reach_the_threshold_apply_likeliest_first(probabilities, threshold):
    applying = labels().applying(probabilities, threshold)
    scores = dict(zip(NAMES, probabilities, strict=True))
    assert set(applying) == {name for name, score in scores.items() if score >= threshold}
    assert [scores[name] for name in applying] == sorted((scores[name] for name in applying), reverse=True)


def test_each_label_may_have_a_threshold_of_its_own():
    own = Labels(names=("a", "b", "c"), activation="sigmoid", threshold=(0.2, 0.6, 0.4))
    assert own.applying([0.3, 0.5, 0.4]) == ["c", "a"]
    assert own.applying([0.3, 0.5, 0.4], 0.5) == ["b"]
    with pytest.raises(ValueError, match="2 thresholds are given for 3 labels"):
        Labels(names=("a", "b", "c"), activation="sigmoid", threshold=(0.2, 0.6))


def test_by_softmax_only_the_likeliest_applies():
    assert labels("softmax").applying([0.1, 0.5, 0.4], 0.0) == ["Comedy"]
    assert labels("softmax").applying([0.1, 0.5, 0.4], 0.6) == []


def test_of_equals_the_first_comes_first():
    assert likeliest_first([0.2, 0.5, 0.5, 0.1]) == [1, 2, 0, 3]


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (("a", "b", "a"), "'a' stands twice"),
        (("a", "b\n"), "cannot be printed"),
        (("a", ""), "at least 1 character"),
        ((), "at least 1 item"),
        (("x" * 201,), "at most 200 characters"),
    ],
)
def test_names_that_tell_nothing_apart_are_refused(names, fault):
    with pytest.raises(ValidationError, match=fault):
        labels(names=names)
