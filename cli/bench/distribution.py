"""Percentiles of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from cli.bench.workload import Frozen

PERCENTS = (50, 90, 95, 99)


class Distribution(Frozen):
    """Percentiles by nearest rank: the smallest value that at least so many percent of all do not exceed. Every one of
    them was measured; nothing is interpolated."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """None of nothing."""
        if not values:
            return None
        ranked = sorted(values)
        p50, p90, p95, p99 = (_nearest_rank(ranked, percent) for percent in PERCENTS)
        mean = math.fsum(ranked) / len(ranked)
        return cls(count=len(ranked), mean=mean, p50=p50, p90=p90, p95=p95, p99=p99, most=ranked[-1])

    def percentile(self, percent: int) -> float:
        return float(getattr(self, f"p{percent}"))

    def is_sure(self, percent: int) -> bool:
        """Whether any value lies beyond the percentile; else it is the largest one, and one more request could be
        anywhere above it."""
        return math.ceil(self.count * percent / 100) < self.count


def _nearest_rank(ranked: Sequence[float], percent: int) -> float:
    return ranked[math.ceil(len(ranked) * percent / 100) - 1]
