"""Cleaning of synopses: each rule on a row of its own, and the real tables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from training.data import anime
from training.data.cleaning import Cleaning
from training.data.tables import Table

GOOD = " ".join(["word"] * 31)
DATA = os.environ.get("KAMISHIBAI_TEST_DATA")


def cleaned(*rows):
    cleaning = Cleaning(anime.rules())
    found = list(anime.records(rows, cleaning, 0.05, 0))
    assert (cleaning.read, cleaning.kept) == (len(rows), len(found))
    return found, {rule: count for rule, count in cleaning.dropped.items() if count}


def row(synopsis=GOOD, **cells):
    return {"title": "A title", "synopsis": synopsis, "genres": "['Comedy']"} | cells


def test_a_good_row_is_kept_with_its_title_and_genres():
    (record,), dropped = cleaned(row())
    assert (record.title, record.text, record.genres, dropped) == ("A title", GOOD, ["Comedy"], {})


@pytest.mark.parametrize(
    "cells",
    [
        {"genres": "['Comedy', 'Hentai']"},
        {"genres": "Comedy, Kids"},
        {"demographic": "Kids"},
        {"Hentai": "1"},
        {"Kids": "True"},
        {"genre": "Kids", "genres": "NOT_EXIST"},
    ],
    ids=str,
)
def test_what_is_flagged_in_any_form_is_dropped(cells):
    assert cleaned(row(**cells))[1] == {"flagged Hentai or Kids": 1}


@pytest.mark.parametrize("cells", [{"Hentai": "0"}, {"Kids": "False"}, {"title": "Kids"}, {"demographic": "NOT_EXIST"}])
def test_what_is_not_flagged_is_kept(cells):
    assert len(cleaned(row(**cells))[0]) == 1


@pytest.mark.parametrize(("words", "kept"), [(0, 0), (30, 0), (31, 1), (300, 1), (301, 0)])
def test_synopses_of_31_to_300_words_are_kept(words, kept):
    found, dropped = cleaned(row(" ".join(["word"] * words)))
    assert (len(found), sum(dropped.values())) == (kept, 1 - kept)


@pytest.mark.parametrize(
    ("added", "left"),
    [
        (" (Source: ANN)", ""),
        (" [Written by MAL Rewrite]", ""),
        (" [Written by me] more (Source: x) end", " [Written by me] more"),
        (" source", " source"),
    ],
)
def test_a_synopsis_ends_before_its_source_else_before_its_writer(added, left):
    (record,), _ = cleaned(row(GOOD + added))
    assert record.text == GOOD + left


def test_a_synopsis_that_is_all_source_is_dropped():
    assert cleaned(row("(Source: " + GOOD))[1] == {"nothing left before '(Source' or '[Written '": 1}


def test_runs_of_other_scripts_become_a_space():
    (record,), _ = cleaned(row(GOOD + " caf\u00e9s\u2019 end \u65e5\u672c\u8a9e!"))
    assert record.text == GOOD + " caf s end !"
    assert cleaned(row("\u65e5 " * 40))[1] == {"nothing left but other scripts": 1}


def test_symbols_are_stripped_and_other_punctuation_stays():
    (record,), _ = cleaned(row(GOOD + " a&#/@`)(;<='\"$%>b, c! d? e-f: g."))
    assert record.text == GOOD + " ab, c! d? e-f: g."


@pytest.mark.parametrize("words", ["An ADAPTATION of", "a Music Video", "Based on a", "this spin-off"])
def test_what_is_told_of_other_works_is_dropped(words):
    _, dropped = cleaned(row(f"{GOOD} {words} thing"))
    assert dropped == {"says adaptation, music video, based on or spin-off": 1}


def test_rules_are_applied_in_their_order():
    _, dropped = cleaned(row("Kids based on", genres="Kids"), row(GOOD + " (Source: based on a book)"))
    assert dropped == {"flagged Hentai or Kids": 1}
    table = Cleaning(anime.rules()).table()
    assert [line[0] for line in table[:3]] == ["RULE", "read", "flagged Hentai or Kids"]


@pytest.mark.skipif(not DATA, reason="KAMISHIBAI_TEST_DATA does not name a folder with the real data sets")
@pytest.mark.parametrize(
    ("name", "read", "kept"), [("anime_synopses.csv", 3341, 2807), ("anime_synopses_2023.csv", 10955, 6348)]
)
def test_the_real_tables_keep_what_the_recipe_keeps(name, read, kept):
    table, cleaning = Table(Path(str(DATA)) / name), Cleaning(anime.rules())
    found = list(anime.records(table, cleaning, 0.05, 0))
    assert (cleaning.read, len(found), table.broken) == (read, kept, 0)
    assert all(record.text.isascii() and not set(record.text) & set(anime.SYMBOLS) for record in found)
    share = sum(record.split == "validation" for record in found) / kept
    assert 0.03 < share < 0.07
