"""The training text that is most similar to each generated one, whatever similarity is measured by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK_CELLS = 1 << 23  # similarities that are in memory at once, 32 MB of them

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Similarities:
    """Of generated texts, in their order."""

    highest: NDArray[np.float64]  # (texts,)
    nearest: NDArray[np.int64]  # (texts,) place of a training text, the first of equals; -1: similar to none
    by_group: NDArray[np.float64]  # (texts, groups) mean similarity to the training texts of each group


def block_rows(training_texts: int) -> int:
    """How many generated texts are compared at once."""
    return max(1, BLOCK_CELLS // max(1, training_texts))


def summarise(blocks: Iterable[Matrix], groups: Matrix) -> Similarities:
    """From blocks of similarities (rows, training texts); `groups` (training texts, groups) is 1 for members."""
    highest, nearest, by_group = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros((0, groups.shape[1]))]
    members = np.maximum(groups.sum(axis=0), 1)
    for block in blocks:
        places = block.argmax(axis=1)
        values = block[np.arange(len(block)), places].astype(np.float64)
        highest.append(values)
        nearest.append(np.where(values > 0, places, -1))
        by_group.append((block @ groups / members).astype(np.float64))
    return Similarities(np.concatenate(highest), np.concatenate(nearest), np.concatenate(by_group))
