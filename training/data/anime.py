"""Anime synopses: the cleaning that the recipes of the word LSTM and of GPT-2 share, rule by rule in their order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from training.data.cleaning import Cleaning, Rule
from training.data.genres import flagged, is_flag, listed
from training.data.records import SynopsisRecord
from training.data.splits import split_of
from training.data.tables import Row, first_of

UNWANTED_GENRES = ("Hentai", "Kids")
FEWEST_WORDS, MOST_WORDS = 31, 300
SYMBOLS = "&#/@`)(;<='\"$%>"
UNWANTED_WORDS = ("adaptation", "music video", "based on", "spin-off")

_GENRE_COLUMNS = ("genres", "genre", "themes", "demographic", "demographics")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_UNWANTED = re.compile("|".join(map(re.escape, UNWANTED_WORDS)), re.IGNORECASE)
_WITHOUT_SYMBOLS = str.maketrans("", "", SYMBOLS)


class Synopsis(NamedTuple):
    title: str
    text: str
    genres: frozenset[str]


def synopses(rows: Iterable[Row]) -> Iterator[Synopsis]:
    """From the rows of any table with a title, a synopsis and genres in one of the known forms."""
    for row in rows:
        named = [name for column in _GENRE_COLUMNS for name in listed(first_of(row, column))]
        flags = flagged(row, [column for column in row if column in UNWANTED_GENRES and is_flag(row[column])])
        title = first_of(row, "title", "name", "english_title")
        yield Synopsis(title, first_of(row, "synopsis", "sypnopsis", "description", "text"), frozenset(named + flags))


def rules() -> tuple[Rule[Synopsis], ...]:
    """In the order in which they are applied."""
    return (
        Rule(f"flagged {' or '.join(UNWANTED_GENRES)}", _is_wanted),
        Rule(f"not {FEWEST_WORDS} to {MOST_WORDS} words", _has_its_length),
        Rule("nothing left before '(Source' or '[Written '", _without_source),
        Rule("nothing left but other scripts", _in_ascii),
        Rule(f"nothing left but {SYMBOLS}", _without_symbols),
        Rule(f"says {', '.join(UNWANTED_WORDS[:-1])} or {UNWANTED_WORDS[-1]}", _tells_a_story),
    )


def records(
    rows: Iterable[Row], cleaning: Cleaning[Synopsis], validation_share: float, seed: int
) -> Iterator[SynopsisRecord]:
    """Clean records, counted by `cleaning`, each in its split."""
    for synopsis in cleaning.clean(synopses(rows)):
        yield SynopsisRecord(
            title=synopsis.title,
            text=synopsis.text,
            genres=sorted(synopsis.genres),
            split=split_of(synopsis.title or synopsis.text, validation_share, seed),
        )


def _is_wanted(synopsis: Synopsis) -> Synopsis | None:
    return None if synopsis.genres & set(UNWANTED_GENRES) else synopsis


def _has_its_length(synopsis: Synopsis) -> Synopsis | None:
    return synopsis if FEWEST_WORDS <= len(synopsis.text.split()) <= MOST_WORDS else None


def _without_source(synopsis: Synopsis) -> Synopsis | None:
    mark = "(Source" if "(Source" in synopsis.text else "[Written "
    return _with_text(synopsis, synopsis.text.partition(mark)[0])


def _in_ascii(synopsis: Synopsis) -> Synopsis | None:
    return _with_text(synopsis, _NOT_ASCII.sub(" ", synopsis.text))


def _without_symbols(synopsis: Synopsis) -> Synopsis | None:
    return _with_text(synopsis, synopsis.text.translate(_WITHOUT_SYMBOLS))


def _tells_a_story(synopsis: Synopsis) -> Synopsis | None:
    return None if _UNWANTED.search(synopsis.text) else synopsis


def _with_text(synopsis: Synopsis, text: str) -> Synopsis | None:
    """With single spaces; None if nothing is left."""
    words = " ".join(text.split())
    return synopsis._replace(text=words) if words else None
