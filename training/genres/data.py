"""Plots and their genres as texts and a matrix of truths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.errors import StoreError
from training.data.records import PlotRecord, read_records
from training.data.splits import Split

Truth = NDArray[np.bool_]  # (texts, genres)


class LabelledPlots(NamedTuple):
    texts: list[str]
    truth: Truth


class GenreData(NamedTuple):
    genres: tuple[str, ...]  # of the plots to train on, the most frequent first
    train: LabelledPlots
    validation: LabelledPlots
    skipped: dict[str, int]  # why -> how many records
    left_out: dict[str, int]  # genre that is not learnt -> how many records are of it


def read_genres(path: Path, fewest_plots: int = 1) -> GenreData:
    """Records of plots in the splits that they name. Genres of fewer plots than asked for are left out.

    Raises StoreError for what are no such records, and where nothing is left to learn or to judge by.
    """
    records = list(read_records(path, PlotRecord))
    counts = Counter(genre for record in records if record.split == "train" for genre in set(record.genres))
    ranked = sorted(counts, key=lambda genre: (-counts[genre], genre))
    genres = tuple(genre for genre in ranked if counts[genre] >= fewest_plots)
    if not genres:
        raise StoreError(f"{path} holds no genre of {fewest_plots} plots or more to train on")
    skipped = Counter("no known genre" for record in records if not set(record.genres) & set(genres))
    kept = [record for record in records if set(record.genres) & set(genres)]
    train, validation = _of("train", kept, genres), _of("validation", kept, genres)
    if not validation.texts:
        raise StoreError(
            f"{path} holds no plot to validate with; make it by: kamishibai data movies --validation-share"
        )
    left_out = Counter(genre for record in records for genre in set(record.genres) - set(genres))
    return GenreData(genres, train, validation, dict(skipped), dict(left_out.most_common()))


def _of(split: Split, records: Sequence[PlotRecord], genres: tuple[str, ...]) -> LabelledPlots:
    chosen = [record for record in records if record.split == split]
    truth = np.array([[genre in record.genres for genre in genres] for record in chosen], dtype=np.bool_)
    return LabelledPlots([record.plot for record in chosen], truth.reshape(len(chosen), len(genres)))


def positive_weights(truth: Truth, largest: float) -> NDArray[np.float64]:
    """What a genre's positive examples count in the loss: 1 for the most frequent genre, `largest` for the rarest, by
    the inverse of how frequent they are. Truth (texts, genres) -> (genres,)."""
    inverse = 1 / np.maximum(truth.sum(0), 1)
    span = inverse.max() - inverse.min()
    scaled = (inverse - inverse.min()) / span if span else np.zeros_like(inverse)
    return np.asarray(1 + (largest - 1) * scaled, dtype=np.float64)
