"""Rows of a CSV or TSV file, read as a stream: a table larger than memory works."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.errors import StoreError

MAX_CELL_CHARACTERS = 16 << 20
MOST_NAMED_FAULTS = 5
_DELIMITERS = "\t,;|"

Row = dict[str, str]


@dataclass
class Table:
    """Iterate it for its rows by column name. Rows with too many or too few cells are skipped and counted."""

    path: Path
    rows: int = 0  # seen so far, the broken ones too
    broken: int = 0
    faults: list[str] = field(default_factory=list)  # the first few

    def __iter__(self) -> Iterator[Row]:
        """Raises StoreError for what is no table."""
        csv.field_size_limit(MAX_CELL_CHARACTERS)
        try:
            with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
                yield from self._rows(csv.reader(lines, delimiter=_delimiter(self.path)))
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror}") from None
        except csv.Error as error:
            raise StoreError(f"{self.path}: after row {self.rows} it is no table any more: {error}") from None

    def _rows(self, reader: Any) -> Iterator[Row]:  # csv has no name for what csv.reader makes
        columns = [column.strip() for column in next(reader, [])]
        if len(columns) < 2:
            raise StoreError(f"{self.path} has no columns; its first line must name them, separated by commas or tabs")
        for cells in reader:
            if not cells:
                continue  # an empty line
            self.rows += 1
            if len(cells) == len(columns):
                yield dict(zip(columns, cells, strict=True))
            else:
                self.broken += 1
                if len(self.faults) < MOST_NAMED_FAULTS:
                    self.faults.append(f"line {reader.line_num} has {len(cells)} cells instead of {len(columns)}")


def _delimiter(path: Path) -> str:
    """The one that the first line has most of."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        head = lines.readline(1 << 16)
    return max(_DELIMITERS, key=head.count)


def first_of(row: Row, *columns: str) -> str:
    """The first cell under one of these names, in any case, that says something; or nothing."""
    cells = {name.lower(): cell.strip() for name, cell in row.items()}
    return next((cells[column] for column in columns if cells.get(column)), "")
