"""How different the texts of one setting are: distinct-n (Li et al. 2016) and self-BLEU (Zhu et al. 2018).

Both depend on how many texts there are, so that only equal numbers of texts compare.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from math import exp, log

import numpy as np

from training.evaluation.report import Diversity
from training.evaluation.words import words

MOST_TEXTS = 1000  # of a setting: a sample of so many is taken of more
ORDERS = (1, 2, 3, 4)
SMOOTHING = 0.1  # matches in place of none (Chen and Cherry 2014, method 1)

Words = Sequence[str]
Ngrams = Counter[tuple[str, ...]]


def diversity(texts: Sequence[str]) -> Diversity:
    """The same sample for the same texts."""
    if len(texts) > MOST_TEXTS:
        places = np.random.default_rng(0).choice(len(texts), MOST_TEXTS, replace=False)
        texts = [texts[place] for place in sorted(places.tolist())]
    sample = [words(text) for text in texts]
    return Diversity(
        texts=len(sample),
        distinct_1=distinct(sample, 1),
        distinct_2=distinct(sample, 2),
        distinct_3=distinct(sample, 3),
        self_bleu=self_bleu(sample),
    )


def distinct(texts: Sequence[Words], order: int) -> float | None:
    """Different n-grams as a share of all; None: no text is that long."""
    seen = [ngram for text in texts for ngram in _ngrams(text, order)]
    return len(set(seen)) / len(seen) if seen else None


def self_bleu(texts: Sequence[Words]) -> float | None:
    """The mean BLEU-4 of each text with all others as its references; None: there are fewer than two of 4 words.

    A text's n-gram counts as often as the one reference that has it most often does. So per n-gram it is enough to know
    the highest count and the highest of all other texts, and the time grows with the words, not with the pairs.
    """
    texts = [text for text in texts if len(text) >= max(ORDERS)]
    if len(texts) < 2:
        return None
    logarithms = [0.0] * len(texts)
    for order in ORDERS:
        counted = [Counter(_ngrams(text, order)) for text in texts]
        references = _two_highest(counted)
        for place, ngrams in enumerate(counted):
            matches = sum(min(count, _most_elsewhere(references[ngram], place)) for ngram, count in ngrams.items())
            logarithms[place] += log((matches or SMOOTHING) / ngrams.total()) / len(ORDERS)
    lengths = sorted(len(text) for text in texts)
    scores = [
        exp(logarithm + min(0.0, 1 - _closest(lengths, len(text)) / len(text)))
        for text, logarithm in zip(texts, logarithms, strict=True)
    ]
    return sum(scores) / len(scores)


def _ngrams(text: Words, order: int) -> list[tuple[str, ...]]:
    return [tuple(text[begin : begin + order]) for begin in range(len(text) - order + 1)]


def _two_highest(counted: Sequence[Ngrams]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Of each n-gram: the highest count, the text that has it, and the highest count of the other texts."""
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for place, ngrams in enumerate(counted):
        for ngram, count in ngrams.items():
            highest, owner, second = found.get(ngram, (0, -1, 0))
            if count > highest:
                found[ngram] = count, place, highest
            elif count > second:
                found[ngram] = highest, owner, count
    return found


def _most_elsewhere(highest: tuple[int, int, int], place: int) -> int:
    return highest[2] if highest[1] == place else highest[0]


def _closest(lengths: Sequence[int], length: int) -> int:
    """The length of another text that is closest to this one's, the shorter of two; `lengths` are sorted."""
    place = bisect_left(lengths, length)
    others = [*lengths[max(0, place - 1) : place], *lengths[place + 1 : place + 2]]
    return min(others, key=lambda other: (abs(other - length), other))
