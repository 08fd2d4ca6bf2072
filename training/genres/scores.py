"""How well probabilities of genres fit the truth, at thresholds that are searched for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from training.genres.data import Truth

Probabilities = NDArray[np.float64]  # (texts, genres)
CANDIDATES = np.linspace(0.02, 0.98, 97)  # thresholds that are tried
BINS = 10  # of the calibration


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GenreScore(_Frozen):
    genre: str
    threshold: float
    precision: float
    recall: float
    f1: float
    support: int  # texts that are of this genre


class Calibration(_Frozen):
    """Of all pairs of a text and a genre, by how likely they were called."""

    said: tuple[float, ...]  # mean probability of each bin that has pairs
    true: tuple[float, ...]  # share of them that are so
    pairs: tuple[int, ...]
    expected_error: float  # mean difference of the two, weighted by pairs


class Scores(_Frozen):
    """`micro` counts every pair of text and genre alike, `macro` every genre that the texts have."""

    genres: tuple[GenreScore, ...]
    micro_precision: float
    micro_recall: float
    micro_f1: float
    macro_f1: float
    calibration: Calibration


def judge(probabilities: Probabilities, truth: Truth, genres: Sequence[str], thresholds: Sequence[float]) -> Scores:
    """Probabilities and truth (texts, genres); a threshold for each genre."""
    said = probabilities >= np.asarray(thresholds)
    hits, called, support = (said & truth).sum(0), said.sum(0), truth.sum(0)
    rows = [
        GenreScore(
            genre=genre,
            threshold=float(thresholds[place]),
            precision=_share(hits[place], called[place]),
            recall=_share(hits[place], support[place]),
            f1=_f1(hits[place], called[place], support[place]),
            support=int(support[place]),
        )
        for place, genre in enumerate(genres)
    ]
    present = [row.f1 for row in rows if row.support]
    return Scores(
        genres=tuple(rows),
        micro_precision=_share(hits.sum(), called.sum()),
        micro_recall=_share(hits.sum(), support.sum()),
        micro_f1=_f1(hits.sum(), called.sum(), support.sum()),
        macro_f1=sum(present) / len(present) if present else 0.0,
        calibration=calibrate(probabilities, truth),
    )


def best_threshold(probabilities: Probabilities, truth: Truth) -> float:
    """The one for all genres with the highest micro F1; of equals the middle one, which lies far from all mistakes."""
    scores = np.array([_f1_at(probabilities, truth, candidate) for candidate in CANDIDATES])
    best = np.flatnonzero(scores == scores.max())
    return float(CANDIDATES[best[len(best) // 2]])


def best_thresholds(probabilities: Probabilities, truth: Truth) -> tuple[float, ...]:
    """For each genre the one with its highest F1; the one for all where a genre has no text to tell by."""
    common = best_threshold(probabilities, truth)
    return tuple(
        best_threshold(probabilities[:, [genre]], truth[:, [genre]]) if truth[:, genre].any() else common
        for genre in range(truth.shape[1])
    )


def search_thresholds(probabilities: Probabilities, truth: Truth, how: Literal["common", "each"]) -> tuple[float, ...]:
    """A threshold for each genre, the same or its own."""
    if how == "each":
        return best_thresholds(probabilities, truth)
    common = best_threshold(probabilities, truth)
    return tuple(common for _ in range(truth.shape[1]))


def calibrate(probabilities: Probabilities, truth: Truth) -> Calibration:
    """In bins of equal width."""
    said, true = probabilities.ravel(), truth.ravel()
    places = np.minimum((said * BINS).astype(int), BINS - 1)
    bins = [places == place for place in range(BINS) if (places == place).any()]
    means, shares, pairs = (
        [said[each].mean() for each in bins],
        [true[each].mean() for each in bins],
        [each.sum() for each in bins],
    )
    errors = [abs(mean - share) * count for mean, share, count in zip(means, shares, pairs, strict=True)]
    return Calibration(
        said=tuple(map(float, means)),
        true=tuple(map(float, shares)),
        pairs=tuple(map(int, pairs)),
        expected_error=float(sum(errors) / len(said)) if len(said) else 0.0,
    )


def companions(said: Truth, truth: Truth) -> NDArray[np.float64]:
    """Of the texts of a genre (row) the share that each genre (column) is said of, (genres, genres). Off the diagonal
    are genres that are taken for others, or travel with them."""
    counts = truth.T.astype(np.float64) @ said.astype(np.float64)
    return np.asarray(counts / np.maximum(truth.sum(0), 1)[:, None], dtype=np.float64)


def _f1_at(probabilities: Probabilities, truth: Truth, threshold: float) -> float:
    said = probabilities >= threshold
    return _f1((said & truth).sum(), said.sum(), truth.sum())


def _f1(hits: int, called: int, support: int) -> float:
    return _share(2 * hits, called + support)


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0
