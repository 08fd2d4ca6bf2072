"""distinct-n and self-BLEU, held against their definitions with exact fractions and a loop over all pairs."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation import diversity as product
from training.evaluation.diversity import distinct, diversity, self_bleu


def ngrams(text, order):
    return [tuple(text[place : place + order]) for place in range(len(text) - order + 1)]


def bleu(text, references):
    """Papineni et al. 2002, with 1/10 of a match in place of none."""
    logarithm = 0.0
    for order in (1, 2, 3, 4):
        counts = Counter(ngrams(text, order))
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= Counter(ngrams(reference, order))
        matches = sum((counts & most).values())
        logarithm += log(Fraction(matches or Fraction(1, 10), sum(counts.values()))) / 4
    closest = min((abs(len(other) - len(text)), len(other)) for other in references)[1]
    return exp(logarithm + min(0.0, 1 - closest / len(text)))


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=9)


@given(st.lists(WORDS, max_size=6))
def test_self_bleu_is_the_mean_bleu_of_each_text_against_all_others(texts):
    long = [text for text in texts if len(text) >= 4]
    if len(long) < 2:
        assert self_bleu(texts) is None
        return
    expected = [bleu(text, long[:place] + long[place + 1 :]) for place, text in enumerate(long)]
    assert self_bleu(texts) == pytest.approx(sum(expected) / len(expected))


def test_equal_texts_have_self_bleu_1_and_texts_without_common_words_nearly_0():
    assert self_bleu([list("abcde")] * 3) == pytest.approx(1)
    assert self_bleu([list("abcde"), list("fghij")]) == pytest.approx(exp(sum(log(0.1 / n) for n in (5, 4, 3, 2)) / 4))


@given(st.lists(WORDS, max_size=6), st.integers(1, 4))
def test_distinct_is_the_share_of_different_ngrams(texts, order):
    seen = [ngram for text in texts for ngram in ngrams(text, order)]
    assert distinct(texts, order) == (len(set(seen)) / len(seen) if seen else None)


def test_a_sample_is_taken_of_many_texts_and_is_the_same_each_time(monkeypatch):
    monkeypatch.setattr(product, "MOST_TEXTS", 10)
    texts = [f"text number {number} of many words" for number in range(50)]
    found = diversity(texts)
    assert found.texts == 10
    assert found == diversity(texts)
    assert found.distinct_1 == pytest.approx((10 + 5) / 60)  # a number each, and five words that all have
