"""Movie plots with their genres: English ones, their titles taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from contracts.errors import StoreError
from training.data.cleaning import Cleaning, Rule
from training.data.genres import flagged, is_flag, listed
from training.data.records import PlotRecord
from training.data.splits import split_of
from training.data.tables import Row, first_of
from training.data.titles import parse_title

PLACEHOLDERS = frozenset(
    {"#name?", "no overview available", "no overview available.", "no overview found.", "n/a", "nan"}
)
_TITLE_COLUMNS, _PLOT_COLUMNS, _LIST_COLUMNS = (
    ("title", "name"),
    ("plot", "overview", "description", "summary"),
    ("genres", "genre"),
)


class Plot(NamedTuple):
    title: str
    text: str
    genres: tuple[str, ...]


def plots(rows: Iterable[Row]) -> Iterator[Plot]:
    """From the rows of any table with a title, a plot and genres, listed in a cell or as columns of 0 and 1.

    Raises StoreError for a table that has no such columns.
    """
    columns: list[str] | None = None
    for row in rows:
        if columns is None:
            columns = _flag_columns(row)
        text = " ".join(first_of(row, *_PLOT_COLUMNS).split())
        genres = flagged(row, columns) if columns else listed(first_of(row, *_LIST_COLUMNS))
        yield Plot(first_of(row, *_TITLE_COLUMNS), text, tuple(dict.fromkeys(genres)))


def rules(is_english: Callable[[str], bool]) -> tuple[Rule[Plot], ...]:
    """In the order in which they are applied."""
    return (
        Rule("no plot", lambda plot: plot if plot.text and plot.text.lower() not in PLACEHOLDERS else None),
        Rule("no genre", lambda plot: plot if plot.genres else None),
        Rule("not English", lambda plot: plot if is_english(plot.text) else None),
    )


def records(rows: Iterable[Row], cleaning: Cleaning[Plot], validation_share: float, seed: int) -> Iterator[PlotRecord]:
    """Clean records, counted by `cleaning`, each in its split. All episodes of a show are in the same one."""
    for plot in cleaning.clean(plots(rows)):
        title = parse_title(plot.title)
        yield PlotRecord(
            title=plot.title,
            plot=plot.text,
            genres=list(plot.genres),
            primary=title.primary,
            secondary=title.secondary,
            year=title.year,
            episode=title.episode,
            split=split_of(title.primary or plot.text, validation_share, seed),
        )


def english_detector() -> Callable[[str], bool]:
    """Raises StoreError where the library is missing."""
    try:
        from py3langid import classify
    except ImportError:
        raise StoreError(
            "language detection needs py3langid; install it with: pip install 'kamishibai[data]'"
        ) from None
    return lambda text: bool(classify(text)[0] == "en")


def _flag_columns(row: Row) -> list[str]:
    """Those of 0 and 1, in a table that lists genres in no cell. Raises StoreError for one without what is needed."""
    names = {name.lower() for name in row}
    has_list = bool(names & set(_LIST_COLUMNS))
    known = {*_TITLE_COLUMNS, *_PLOT_COLUMNS}
    flags = [column for column, cell in row.items() if column.lower() not in known and cell.strip() and is_flag(cell)]
    if has_list and names & set(_PLOT_COLUMNS):
        return []
    if not flags or not names & set(_PLOT_COLUMNS):
        raise StoreError(
            f"the table has the columns {', '.join(sorted(row))[:200]}; it needs a 'plot', and 'genres' or a column of"
            " 0 and 1 for each genre"
        )
    return flags
