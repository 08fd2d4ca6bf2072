"""What a model was trained on: the records of `kamishibai data` on the training side of their split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contracts.errors import StoreError
from training.data.records import PlotRecord, SynopsisRecord, kind_of, read_records
from training.data.titles import parse_title


@dataclass(frozen=True)
class TrainingText:
    """`primary` and `secondary` are parts of the title; genres are in lower case."""

    text: str
    title: str
    genres: tuple[str, ...]
    primary: str
    secondary: str | None


def read_training_texts(path: Path) -> list[TrainingText]:
    """Plots or synopses of a .jsonl or .parquet file. Raises StoreError, also where all are there to validate."""
    found = [_training_text(record) for record in read_records(path, kind_of(path)) if record.split == "train"]
    if not found:
        raise StoreError(f"{path} has no record to train on; make it with a --validation-share below 1")
    return found


def _training_text(record: PlotRecord | SynopsisRecord) -> TrainingText:
    title = parse_title(record.title)
    return TrainingText(
        text=record.plot if isinstance(record, PlotRecord) else record.text,
        title=record.title,
        genres=tuple(genre.lower() for genre in record.genres),
        primary=title.primary,
        secondary=title.secondary,
    )
