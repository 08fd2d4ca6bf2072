"""Titles as IMDb and TMDB write them."""

from __future__ import annotations

import re
from typing import NamedTuple

# "Show" (1999) {Episode name (#1.2)}; Film (1999/II) (TV); Film (2009)
_TITLE = re.compile(
    r"""\s*
    (?: "(?P<quoted>[^"]*)" | (?P<plain>.*?) ) \s*
    (?: \( (?P<year>\d{4}|\?{4}) (?:/[IVXLC]+)? \) )? \s*
    (?: \( (?:TV|V|VG|mini) \) )? \s*
    (?: \{ (?! \{ ) (?P<inside> .*? ) \} )? \s*
    (?: \{\{SUSPENDED\}\} )? \s*
    """,
    re.VERBOSE | re.DOTALL,
)
_EPISODE = re.compile(r"(?P<name>.*?)\s*\((?:#(?P<number>\d+(?:\.\d+)?)|(?P<date>\d{4}-\d{2}-\d{2}))\)\s*", re.DOTALL)


class Title(NamedTuple):
    """Parts that the title does not have are None."""

    primary: str
    year: int | None = None
    secondary: str | None = None  # the episode's name
    episode: str | None = None  # `season.number`, or the day on which it was shown


def parse_title(text: str) -> Title:
    """Any text is a title; one that has none of the forms is its own primary title."""
    match = _TITLE.fullmatch(text)
    primary = "" if match is None else (match["quoted"] or match["plain"] or "").strip()
    if match is None or not primary:
        return Title(text.strip())
    year = int(match["year"]) if match["year"] and match["year"].isdecimal() else None
    inside = (match["inside"] or "").strip()
    if episode := _EPISODE.fullmatch(inside):
        return Title(primary, year, episode["name"] or None, episode["number"] or episode["date"])
    return Title(primary, year, inside or None)
