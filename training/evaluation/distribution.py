"""A distribution in numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from training.evaluation.report import Distribution, Histogram

SIMILARITY_BIN = 0.01
WORDS_BIN = 10


def of_similarities(values: Iterable[float]) -> Distribution | None:
    """None: there are none. Cosines below 0 are counted in the first bin."""
    return _distribution(np.array(list(values)), np.linspace(0, 1, round(1 / SIMILARITY_BIN) + 1).round(2))


def of_lengths(lengths: Iterable[int]) -> Distribution | None:
    """In words; None: there are none."""
    values = np.array(list(lengths), np.float64)
    highest = int(values.max(initial=0))
    return _distribution(values, np.arange(0, highest + 2 * WORDS_BIN, WORDS_BIN, dtype=np.float64))


def _distribution(values: NDArray[np.float64], edges: NDArray[np.float64]) -> Distribution | None:
    if not len(values):
        return None
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
