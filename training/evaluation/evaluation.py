"""From the lines of dumps and the texts of the training to a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import StoreError
from training.data.titles import parse_title
from training.evaluation.distribution import of_lengths, of_similarities
from training.evaluation.diversity import diversity
from training.evaluation.dumps import Generated
from training.evaluation.embedding import Encoder, embedding_blocks
from training.evaluation.jaccard import jaccard_blocks
from training.evaluation.report import (
    Distribution,
    Example,
    GenreSimilarity,
    Measure,
    Neighbour,
    Perplexity,
    Report,
    Setting,
    SettingReport,
    Training,
)
from training.evaluation.similarity import Matrix, Similarities, summarise
from training.evaluation.training_texts import TrainingText
from training.evaluation.uniqueness import plain, uniqueness
from training.evaluation.words import words

EXAMPLES = 10  # of the most similar texts, and of the least similar ones


def evaluate(
    lines: Sequence[Generated],
    training: Sequence[TrainingText],
    encoder: Encoder | None = None,
    *,
    training_file: str = "",
    perplexity: Perplexity | None = None,
    show_progress: bool = False,
) -> Report:
    """The same report for the same input. Without an encoder similarity of meaning is left out.

    Raises StoreError where there is nothing to compare.
    """
    read = [line for line in lines if line.text]
    if not read or not training:
        raise StoreError(
            "there is nothing to compare: no text could be read from the dumps, or there is none of the training"
        )
    genres = sorted({genre for text in training for genre in text.genres})
    found = dict(_similarities(read, training, encoder, _members(training, genres), show_progress))
    return Report(
        training=Training(file=training_file, texts=len(training)),
        encoder=encoder.name if encoder else None,
        settings=tuple(_describe_all(lines, read, found, _Known.of(training))),
        highest={measure: of_similarities(each.highest) for measure, each in found.items()},
        genres={measure: _by_genre(read, each, genres) for measure, each in found.items() if genres},
        most_similar={m: tuple(_examples(read, training, each, -each.highest)) for m, each in found.items()},
        least_similar={m: tuple(_examples(read, training, each, each.highest)) for m, each in found.items()},
        perplexity=perplexity,
    )


@dataclass(frozen=True)
class _Known:
    """Plain texts and titles of the training."""

    texts: frozenset[str]
    primary: frozenset[str]
    secondary: frozenset[str]

    @classmethod
    def of(cls, training: Sequence[TrainingText]) -> _Known:
        return cls(
            frozenset(plain(text.text) for text in training),
            frozenset(plain(text.primary) for text in training),
            frozenset(plain(text.secondary) for text in training if text.secondary),
        )


def _similarities(
    read: Sequence[Generated],
    training: Sequence[TrainingText],
    encoder: Encoder | None,
    members: Matrix,
    show_progress: bool,
) -> Iterator[tuple[Measure, Similarities]]:
    ours, theirs = [line.text for line in read], [text.text for text in training]
    yield "jaccard", summarise(jaccard_blocks(ours, theirs, show_progress=show_progress), members)
    if encoder is not None:
        yield "embedding", summarise(embedding_blocks(encoder, ours, theirs, show_progress=show_progress), members)


def _members(training: Sequence[TrainingText], genres: Sequence[str]) -> Matrix:
    """(training texts, genres): 1 where a text is of a genre."""
    columns = {genre: column for column, genre in enumerate(genres)}
    members = np.zeros((len(training), len(genres)), np.float32)
    for row, text in enumerate(training):
        members[row, [columns[genre] for genre in text.genres]] = 1
    return members


def _describe_all(
    lines: Sequence[Generated], read: Sequence[Generated], found: dict[Measure, Similarities], known: _Known
) -> Iterator[SettingReport]:
    """Sources in their order, the settings of each by temperature; no top-p comes before any."""
    rows: dict[tuple[str, Setting], list[int]] = {}  # the places in `read` of each setting's texts
    for row, line in enumerate(read):
        rows.setdefault((line.source, line.setting), []).append(row)
    groups: dict[tuple[str, Setting], list[Generated]] = {}
    for line in lines:
        groups.setdefault((line.source, line.setting), []).append(line)
    sources = list(dict.fromkeys(line.source for line in lines))
    for source, setting in sorted(
        groups, key=lambda group: (sources.index(group[0]), group[1].temperature, group[1].top_p or 0.0)
    ):
        texts = rows.get((source, setting), [])
        highest = {measure: of_similarities(each.highest[texts]) for measure, each in found.items() if texts}
        yield _describe(source, setting, groups[source, setting], highest, known)


def _describe(
    source: str,
    setting: Setting,
    lines: Sequence[Generated],
    highest: dict[Measure, Distribution],
    known: _Known,
) -> SettingReport:
    texts = [line.text for line in lines if line.text]
    titles = [parse_title(line.title) for line in lines if line.text and line.title]
    return SettingReport(
        source=source,
        setting=setting,
        lines=len(lines),
        texts=len(texts),
        broken=sum(1 for line in lines if line.parsed.faults),
        faults=dict(sorted(Counter(fault for line in lines for fault in line.parsed.faults).items())),
        words=of_lengths([len(words(text)) for text in texts]) if texts else None,
        highest=highest,
        copies=sum(plain(text) in known.texts for text in texts),
        texts_uniqueness=uniqueness(texts, known.texts),
        primary_titles=uniqueness((title.primary for title in titles), known.primary),
        secondary_titles=uniqueness((title.secondary for title in titles if title.secondary), known.secondary),
        diversity=diversity(texts),
    )


def _by_genre(read: Sequence[Generated], found: Similarities, genres: Sequence[str]) -> GenreSimilarity:
    """Texts of genres that the training does not know are left out."""
    rows: dict[str, list[int]] = {}
    for row, line in enumerate(read):
        if line.genre in genres:
            rows.setdefault(line.genre or "", []).append(row)
    generated = sorted(rows)
    return GenreSimilarity(
        generated=tuple(generated),
        training=tuple(genres),
        means=tuple(tuple(found.by_group[rows[genre]].mean(axis=0).tolist()) for genre in generated),
    )


def _examples(
    read: Sequence[Generated], training: Sequence[TrainingText], found: Similarities, order: NDArray[np.float64]
) -> Iterator[Example]:
    """The first ones in an order, given as a number for each text."""
    for place in order.argsort(kind="stable")[:EXAMPLES].tolist():
        line, nearest = read[place], int(found.nearest[place])
        yield Example(
            source=line.source,
            setting=line.setting,
            place=line.place,
            genre=line.genre,
            title=line.title,
            text=line.text,
            similarity=float(found.highest[place]),
            nearest=None if nearest < 0 else _neighbour(training[nearest]),
        )


def _neighbour(text: TrainingText) -> Neighbour:
    return Neighbour(title=text.title, genres=text.genres, text=text.text)
