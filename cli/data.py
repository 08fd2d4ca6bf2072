"""`kamishibai data`: from tables and folders of other people to clean files that `train` takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cli.tables import print_table
from contracts.errors import StoreError
from training.data import anime, corpus, movies
from training.data.cleaning import Cleaning
from training.data.records import write_records
from training.data.tables import Row, Table

Records = Callable[[Iterable[Row], Cleaning[Any], float, int], Iterator[Any]]


def clean_anime(tables: tuple[Path, ...], output: Path, validation_share: float, seed: int) -> None:
    """Raises StoreError."""
    _clean(tables, output, Cleaning(anime.rules()), anime.records, validation_share, seed)


def clean_movies(
    tables: tuple[Path, ...], output: Path, validation_share: float, seed: int, any_language: bool
) -> None:
    """Raises StoreError."""
    is_english = (lambda _text: True) if any_language else movies.english_detector()
    _clean(tables, output, Cleaning(movies.rules(is_english)), movies.records, validation_share, seed)


def gather_text(folder: Path, output: Path) -> None:
    """Raises StoreError."""
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".incoming-", dir=output.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as lines:
            found = list(corpus.gather(folder, lines.write))
        characters = sum(each.characters for each in found)
        if not characters:
            known = ", ".join(corpus.READERS)
            raise StoreError(f"{folder} has no text; files are known by their endings: {known}")
        Path(name).chmod(0o644)
        Path(name).replace(output)
    finally:
        Path(name).unlink(missing_ok=True)
    for each in found:
        if each.fault:
            click.echo(f"{each.path}: {each.fault}", err=True)
    click.echo(f"{output}: {characters:,} characters of {sum(1 for each in found if each.characters)} files")


def _clean(
    paths: tuple[Path, ...], output: Path, cleaning: Cleaning[Any], records: Records, validation_share: float, seed: int
) -> None:
    tables = [Table(path) for path in paths]
    splits = {"train": 0, "validation": 0}

    def counted() -> Iterator[Any]:
        rows = tqdm(chain.from_iterable(tables), unit=" rows", desc="cleaning", disable=None, leave=False)
        for record in records(rows, cleaning, validation_share, seed):
            splits[record.split] += 1
            yield record

    write_records(output, counted())
    print_table(cleaning.table())
    for table in tables:
        if table.broken:
            click.echo(f"{table.path}: {table.broken} broken rows were skipped: {'; '.join(table.faults)}", err=True)
    click.echo(f"{output}: {splits['train']:,} to train on, {splits['validation']:,} to validate, split by title")
