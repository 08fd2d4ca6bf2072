"""Scores equal scikit-learn's; thresholds are the best there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import f1_score, precision_recall_fscore_support

from training.genres.data import positive_weights
from training.genres.scores import CANDIDATES, best_threshold, best_thresholds, calibrate, companions, judge

SHAPES = st.tuples(st.integers(1, 30), st.integers(2, 6))
CASES = SHAPES.flatmap(
    lambda shape: st.tuples(
        arrays.arrays(np.float64, shape, elements=st.floats(0, 1)),
        arrays.arrays(np.bool_, shape, elements=st.booleans()),
    )
)


@given(CASES, st.floats(0, 1))
def test_scores_are_those_of_scikit_learn(case, threshold):
    probabilities, truth = case
    genres = [f"g{place}" for place in range(truth.shape[1])]
    found = judge(probabilities, truth, genres, [threshold] * len(genres))
    said = probabilities >= threshold
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, said, average=None, zero_division=0, labels=range(len(genres))
    )
    for place, row in enumerate(found.genres):
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(
            (precision[place], recall[place], f1[place], support[place])
        )
    assert found.micro_f1 == pytest.approx(f1_score(truth, said, average="micro", zero_division=0))
    present = truth.any(0)
    if present.any():
        assert found.macro_f1 == pytest.approx(f1[present].mean())


@given(CASES)
def test_no_threshold_that_is_tried_is_better_than_the_best(case):
    probabilities, truth = case
    genres = [str(place) for place in range(truth.shape[1])]

    def micro(threshold):
        return judge(probabilities, truth, genres, [threshold] * len(genres)).micro_f1

    assert micro(best_threshold(probabilities, truth)) == max(map(micro, CANDIDATES))
    own = judge(probabilities, truth, genres, best_thresholds(probabilities, truth))
    common = judge(probabilities, truth, genres, [best_threshold(probabilities, truth)] * len(genres))
    assert all(one.f1 >= other.f1 - 1e-12 for one, other in zip(own.genres, common.genres, strict=True))


def test_calibration_compares_what_was_said_with_what_is_so():
    random = np.random.default_rng(1)
    probabilities = random.uniform(size=(4000, 3))
    honest = calibrate(probabilities, random.uniform(size=probabilities.shape) < probabilities)
    bold = calibrate(probabilities, random.uniform(size=probabilities.shape) < probabilities / 2)
    assert honest.expected_error < 0.02
    assert bold.expected_error == pytest.approx(0.25, abs=0.02)
    assert sum(honest.pairs) == probabilities.size
    assert honest.true == pytest.approx(honest.said, abs=0.06)


def test_companions_are_what_is_said_of_the_texts_of_a_genre():
    truth = np.array([[1, 0], [1, 1], [0, 1]], dtype=bool)
    said = np.array([[1, 1], [1, 0], [0, 1]], dtype=bool)
    assert companions(said, truth).tolist() == [[1.0, 0.5], [0.5, 0.5]]


def test_weights_go_from_one_for_the_most_frequent_to_the_largest_for_the_rarest():
    truth = np.zeros((100, 3), dtype=bool)
    truth[:80, 0], truth[:40, 1], truth[:10, 2] = True, True, True
    weights = positive_weights(truth, 3.0)
    assert weights[0] == 1.0
    assert weights[2] == 3.0
    assert weights[1] == pytest.approx(1 + 2 * (1 / 40 - 1 / 80) / (1 / 10 - 1 / 80))
    assert positive_weights(truth[:, :1], 3.0).tolist() == [1.0]
