"""How far a set of pictures is from another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from training.evaluation.pictures_features import Features

SUBSETS = 50
MOST_OF_SUBSET = 1000  # pictures


class Distance(NamedTuple):
    """Mean and standard deviation over subsets."""

    mean: float
    deviation: float
    subset: int  # pictures of each


def kernel_distance(one: Features, other: Features) -> float:
    """Squared maximum mean discrepancy with the kernel (x·y + 1)³, unbiased (Gretton et al., 2012).

    That is the formula of KID (Bińkowski et al., 2018); features are scaled so that x·y stands where KID has x·y / d.
    Around 0 for two samples of one set, below it by chance; each set has two pictures or more.
    """
    n, m = len(one), len(other)
    within_one, within_other, between = (_kernel(a, b) for a, b in ((one, one), (other, other), (one, other)))
    # A picture is not compared with itself: that is what makes it unbiased.
    first = (within_one.sum() - np.trace(within_one)) / (n * (n - 1))
    second = (within_other.sum() - np.trace(within_other)) / (m * (m - 1))
    return float(first + second - 2 * between.mean())


def distance_of(generated: Features, real: Features, seed: int = 0) -> Distance:
    """The mean over random subsets of equal size, as KID is reported."""
    random = np.random.RandomState(seed)
    size = min(MOST_OF_SUBSET, len(generated), len(real))
    found = [
        kernel_distance(*(each[random.permutation(len(each))[:size]] for each in (generated, real)))
        for _ in range(SUBSETS)
    ]
    return Distance(float(np.mean(found)), float(np.std(found)), size)


def _kernel(one: Features, other: Features) -> Features:
    kernel: Features = (one @ other.T + 1) ** 3
    return kernel
