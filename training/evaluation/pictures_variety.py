"""How varied a set of pictures is: few different ones are what a generator that has collapsed draws."""

from __future__ import annotations

import numpy as np

from training.evaluation.pictures_features import Features

PICTURES = 64  # of a subset: as many as a grid has
SUBSETS = 20
COLLAPSED = 0.5  # of the variety of real pictures; below it a generator draws the same few again and again


def variety(layout: Features, count: int = PICTURES, seed: int = 0) -> float:
    """How many different pictures `count` of a set are worth, the mean over random subsets.

    `layout` is that of Scale.layout. Numbers of one `count` compare.
    """
    random = np.random.RandomState(seed)
    subsets = [layout[random.permutation(len(layout))[:count]] for _ in range(SUBSETS)]
    return float(np.mean([effective_number(subset) for subset in subsets]))


def effective_number(layout: Features) -> float:
    """The Vendi score (Friedman and Dieng, 2023) with the kernel exp(-|x - y|²): e to the entropy of the eigenvalues.

    1 for copies of one picture, and the number of pictures for those that have nothing in common.
    """
    squares = (layout**2).sum(1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * layout @ layout.T, 0)
    np.fill_diagonal(distances, 0)
    shares = np.linalg.eigvalsh(np.exp(-distances) / len(layout))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))
