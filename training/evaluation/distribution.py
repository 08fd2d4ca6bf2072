"""A distribution in numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.evaluation.report import Distribution, Histogram

SIMILARITY_BIN = 0.01
WORDS_BIN = 10

Floats = NDArray[np.float64]


def of_similarities(values: Floats) -> Distribution:
    """Of one value or more. Cosines below 0 are counted in the first bin."""
    return _distribution(values, np.linspace(0, 1, round(1 / SIMILARITY_BIN) + 1).round(2))


def of_lengths(lengths: Sequence[int]) -> Distribution:
    """In words, of one text or more."""
    return _distribution(np.array(lengths, np.float64), np.arange(0.0, max(lengths) + 2 * WORDS_BIN, WORDS_BIN))


def _distribution(values: Floats, edges: Floats) -> Distribution:
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    at_5, at_25, median, at_75, at_95 = np.percentile(values, [5, 25, 50, 75, 95]).tolist()
    return Distribution(
        count=len(values),
        mean=float(values.mean()),
        standard_deviation=float(values.std()),
        lowest=float(values.min()),
        percentile_5=at_5,
        percentile_25=at_25,
        median=median,
        percentile_75=at_75,
        percentile_95=at_95,
        highest=float(values.max()),
        histogram=Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist())),
    )
