"""The real pictures that are nearest to generated ones, to see whether any was copied."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.evaluation.pictures_features import Features

NEIGHBOURS = 4
MOST_COMPARED = 2000  # real pictures whose nearest real neighbour is looked for
NEAR_SHARE = 0.01  # of real pictures that have another one so near
_ROWS_AT_ONCE = 256


def nearest(layout: Features, real: Features, count: int = NEIGHBOURS) -> tuple[NDArray[np.int64], Features]:
    """Places (rows, count) in `real` of the nearest ones, nearest first, and how far they are."""
    count = min(count, len(real))
    places, distances = [], []
    squares = (real**2).sum(1)
    for begin in range(0, len(layout), _ROWS_AT_ONCE):
        rows = layout[begin : begin + _ROWS_AT_ONCE]
        apart = np.maximum((rows**2).sum(1)[:, None] + squares[None, :] - 2 * rows @ real.T, 0)
        chosen = np.argsort(apart, 1, kind="stable")[:, :count]
        places.append(chosen)
        distances.append(np.sqrt(np.take_along_axis(apart, chosen, 1)))
    return np.concatenate(places), np.concatenate(distances)


def between_real(real: Features, seed: int = 0) -> Features:
    """How far real pictures are from their nearest real neighbour (count)."""
    chosen = np.random.RandomState(seed).permutation(len(real))[:MOST_COMPARED]
    _, distances = nearest(real[chosen], real, 2)  # the nearest is the picture itself, or its double
    found: Features = distances[:, 1]
    return found
