"""Genres as tables have them: a list in text, words between commas, or a column of 0 and 1 for each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from training.data.tables import Row

MISSING = frozenset({"", "NOT_EXIST", "[]", "nan", "None", "Unknown"})
_TRUE = frozenset({"1", "1.0", "True", "true"})
_FLAGS = _TRUE | {"0", "0.0", "False", "false", ""}


def listed(cell: str) -> list[str]:
    """The names in a cell: `['Comedy', 'Sports']`, `Comedy, Sports` or `Comedy|Sports`; none in a missing one."""
    cell = cell.strip()
    if cell in MISSING:
        return []
    if cell.startswith("["):
        try:
            found = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = cell.strip("[]").replace("'", "").replace('"', "").split(",")
        names: Iterable[str] = map(str, found) if isinstance(found, list | tuple) else [cell]
    else:
        names = re.split(r"[,;|]", cell)
    return [name.strip() for name in names if name.strip() not in MISSING]


def flagged(row: Row, columns: Iterable[str]) -> list[str]:
    """The columns of 0 and 1 that say 1."""
    return [column for column in columns if row[column].strip() in _TRUE]


def is_flag(cell: str) -> bool:
    return cell.strip() in _FLAGS
