"""What a text model is trained on: clean records that `kamishibai data` wrote, or any text file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from contracts.errors import StoreError
from contracts.prompt_fields import PromptFields
from training.data.records import FORMATS, PlotRecord, SynopsisRecord, kind_of, read_records

WITH_TITLES = "genre<|endofgenre|>title<|endoftitle|>plot<|endoftext|>"
WITHOUT_TITLES = "<|startoftext|>genre<|endofgenre|>plot<|endoftext|>"


class Texts(NamedTuple):
    train: list[str]
    validation: list[str]
    prompt_fields: PromptFields | None = None  # the format of the texts, which then hold its markers
    example_prompt: str = ""  # what texts to look at begin with; empty: as the first one does

    @property
    def joined(self) -> tuple[str, str]:
        """Both as one text each, with a line end behind every record."""
        return _joined(self.train), _joined(self.validation)


def holds_records(path: Path) -> bool:
    return path.suffix in FORMATS


def holds_plots(path: Path) -> bool:
    """Whether these are records of plots. Raises StoreError for records that cannot be read."""
    return holds_records(path) and kind_of(path) is PlotRecord


def read_texts(path: Path, validation_share: float, *, titles: bool | None = None) -> Texts:
    """Records in the splits that they name; of another file, the end is for validation.

    `titles` says how plots are told, with their titles or without; None: the plot alone. Raises StoreError.
    """
    if not holds_records(path):
        return _plain(path, validation_share)
    if not holds_plots(path):
        records = [(record.split, record.text) for record in read_records(path, SynopsisRecord)]
        return _checked(path, Texts(_of("train", records), _of("validation", records)))
    if titles is None:
        records = [(record.split, record.plot) for record in read_records(path, PlotRecord)]
        return _checked(path, Texts(_of("train", records), _of("validation", records)))
    fields = PromptFields.from_format(WITH_TITLES if titles else WITHOUT_TITLES)
    told = [(record.split, text) for record in read_records(path, PlotRecord) for text in _tellings(record, fields)]
    return _checked(path, Texts(_of("train", told), _of("validation", told), fields))


def _plain(path: Path, validation_share: float) -> Texts:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise StoreError(f"{path} is no UTF-8 text that can be read: {error}") from None
    cut = len(text) - round(len(text) * validation_share)
    return _checked(path, Texts([text[:cut]], [text[cut:]] if cut < len(text) else []))


def _tellings(record: PlotRecord, fields: PromptFields) -> Iterable[str]:
    """The plot once for each of its genres, in the format of the fields."""
    for genre in record.genres:
        parts = {"genre": genre.lower(), "title": record.title, "plot": record.plot}
        text = fields.start
        for field in fields.fields:
            part = parts[field.name]
            for marker in fields.markers:  # of somebody's joke
                part = part.replace(marker, " ")
            text += part + field.end
        yield text


def _of(split: str, records: Sequence[tuple[str, str]]) -> list[str]:
    return [text for of, text in records if of == split]


def _checked(path: Path, texts: Texts) -> Texts:
    if not any(map(str.strip, texts.train)):
        raise StoreError(f"{path} holds nothing to train on")
    return texts


def _joined(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else "".join(f"{text}\n" for text in texts)
