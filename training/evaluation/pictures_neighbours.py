"""The real pictures that are nearest to generated ones, to see whether any was copied."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from training.evaluation.pictures_features import Pixels

NEIGHBOURS = 4
MOST_COMPARED = 2000  # real pictures whose nearest real neighbour is looked for
NEAR_SHARE = 0.01  # of real pictures that have another one so near
THUMBNAIL = 16  # pixels of a side: so small, a copy that was painted a little differently is still one
_ROWS_AT_ONCE = 256

Rows = NDArray[np.float64]


def thumbnails(pixels: Pixels) -> Rows:
    """Pictures (count, height, width, 3) -> rows (count, 768), whose distance is the root mean square difference of
    their colours: from 0 to 1."""
    parts = [
        F.adaptive_avg_pool2d(torch.from_numpy(part).permute(0, 3, 1, 2).double(), THUMBNAIL).flatten(1).numpy()
        for part in np.array_split(pixels, -(-len(pixels) // _ROWS_AT_ONCE))
    ]
    rows: Rows = np.concatenate(parts) / (255 * np.sqrt(3 * THUMBNAIL * THUMBNAIL))
    return rows


def nearest(rows: Rows, real: Rows, count: int = NEIGHBOURS) -> tuple[NDArray[np.int64], Rows]:
    """Places (rows, count) in `real` of the nearest ones, nearest first, and how far they are."""
    count = min(count, len(real))
    places, distances = [], []
    squares = (real**2).sum(1)
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[begin : begin + _ROWS_AT_ONCE]
        apart = np.maximum((part**2).sum(1)[:, None] + squares[None, :] - 2 * part @ real.T, 0)
        chosen = np.argsort(apart, 1, kind="stable")[:, :count]
        places.append(chosen)
        distances.append(np.sqrt(np.take_along_axis(apart, chosen, 1)))
    return np.concatenate(places), np.concatenate(distances)


def between_real(real: Rows, seed: int = 0) -> Rows:
    """How far real pictures are from their nearest real neighbour (count)."""
    chosen = np.random.RandomState(seed).permutation(len(real))[:MOST_COMPARED]
    _, distances = nearest(real[chosen], real, 2)  # the nearest is the picture itself, or its double
    found: Rows = distances[:, 1]
    return found
