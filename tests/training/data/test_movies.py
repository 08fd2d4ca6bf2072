"""Movie plots: rules, genres in both forms, titles taken apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import StoreError
from training.data import movies
from training.data.cleaning import Cleaning
from training.data.tables import Table
from training.data.titles import Title, parse_title

DATA = os.environ.get("KAMISHIBAI_TEST_DATA")
ENGLISH = "A young detective hunts the killer of her father through the streets of London."


def cleaned(*rows, is_english=lambda text: True):
    cleaning = Cleaning(movies.rules(is_english))
    found = list(movies.records(rows, cleaning, 0.05, 0))
    return found, {rule: count for rule, count in cleaning.dropped.items() if count}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Avatar (2009)", Title("Avatar", 2009)),
        ("Avatar", Title("Avatar")),
        ('"Look East"', Title("Look East")),
        ('"Doctors" (2000) {The Cow as Bitter (#20.53)}', Title("Doctors", 2000, "The Cow as Bitter", "20.53")),
        ('"Show" (1999) {(#1.2)}', Title("Show", 1999, None, "1.2")),
        ('"Show" (1999/II) {Name}', Title("Show", 1999, "Name")),
        ('"News" (1980) {(2005-03-15)}', Title("News", 1980, None, "2005-03-15")),
        ('"Show" (????) {A (b) c (#3)} {{SUSPENDED}}', Title("Show", None, "A (b) c", "3")),
        ("Film (2001) (TV)", Title("Film", 2001)),
        ("2001: A Space Odyssey (1968)", Title("2001: A Space Odyssey", 1968)),
        ("(500) Days of Summer (2009)", Title("(500) Days of Summer", 2009)),
        ('Who\'s "Who"?', Title('Who\'s "Who"?')),
        ('"" (1999)', Title('"" (1999)')),
        ("  ", Title("")),
    ],
)
def test_titles_are_taken_apart(text, expected):
    assert parse_title(text) == expected


@given(st.text(max_size=60) | st.text(alphabet='"(){}#1.9 a/', max_size=30))
def test_any_text_is_a_title(text):
    title = parse_title(text)
    assert title.primary or not text.strip()
    assert title.primary == title.primary.strip()


@given(
    st.text(alphabet="abc de", min_size=1).map(str.strip).filter(bool),
    st.integers(1900, 2100),
    st.text(alphabet="xyz", min_size=1),
    st.integers(1, 30),
)
def test_parts_that_were_put_together_come_apart(primary, year, secondary, season):
    text = f'"{primary}" ({year}) {{{secondary} (#{season}.7)}}'
    assert parse_title(text) == Title(primary, year, secondary, f"{season}.7")


def test_columns_of_0_and_1_are_genres():
    row = {"title": "T (1999)", "plot": ENGLISH, "Drama": "1", "War": "0", "Sci-Fi": "1"}
    (record,), _ = cleaned(row, row | {"title": "U", "Drama": "0", "Sci-Fi": "0"})
    assert (record.genres, record.primary, record.year) == (["Drama", "Sci-Fi"], "T", 1999)


@pytest.mark.parametrize("cell", ["['Drama', 'War']", "Drama, War", "Drama|War", "Drama,War,Drama"])
def test_a_list_of_genres_in_a_cell_is_read_in_its_forms(cell):
    (record,), _ = cleaned({"title": "T", "overview": ENGLISH, "genres": cell, "adult": "1"})
    assert record.genres == ["Drama", "War"]


def test_each_rule_drops_its_row():
    rows = [
        {"title": "a", "plot": "", "genres": "War"},
        {"title": "b", "plot": "#NAME?", "genres": "War"},
        {"title": "c", "plot": ENGLISH, "genres": ""},
        {"title": "d", "plot": "Ein junger Mann", "genres": "War"},
        {"title": "e", "plot": ENGLISH, "genres": "War"},
    ]
    found, dropped = cleaned(*rows, is_english=lambda text: text == ENGLISH)
    assert [record.title for record in found] == ["e"]
    assert dropped == {"no plot": 2, "no genre": 1, "not English": 1}


def test_languages_are_told_apart():
    is_english = movies.english_detector()
    assert is_english(ENGLISH)
    for text in (
        "Eine junge Kommissarin jagt den Mörder ihres Vaters durch die Straßen von London.",
        "Une jeune détective poursuit le meurtrier de son père dans les rues de Londres.",
        "Una joven detective persigue al asesino de su padre por las calles de Londres.",
    ):
        assert not is_english(text)


def test_a_table_without_what_is_needed_names_its_columns():
    with pytest.raises(StoreError, match="columns a, b"):
        cleaned({"a": "1", "b": "x"})


def test_episodes_of_a_show_are_in_one_split():
    rows = [{"title": f'"Show" (1999) {{(#1.{n})}}', "plot": ENGLISH, "genres": "War"} for n in range(50)]
    found, _ = cleaned(*rows)
    assert len({record.split for record in found}) == 1


@pytest.mark.skipif(not DATA, reason="KAMISHIBAI_TEST_DATA does not name a folder with the real data sets")
def test_the_real_table_is_kept_but_for_what_is_not_english():
    table = Table(Path(str(DATA)) / "movies_genres.tsv")
    cleaning = Cleaning(movies.rules(lambda text: True))
    found = list(movies.records(table, cleaning, 0.05, 0))
    assert (cleaning.read, len(found), table.broken) == (17022, 17020, 0)
    assert max(len(record.genres) for record in found) == 8


@pytest.mark.skipif(not DATA, reason="KAMISHIBAI_TEST_DATA does not name a folder with the real data sets")
def test_titles_of_real_dumps_are_taken_apart():
    dumps = Path(str(DATA)) / "movie_plot_dumps" / "with-titles"
    titles = [
        line.partition("<|endofgenre|>")[2].partition("<|endoftitle|>")[0]
        for path in sorted(dumps.iterdir())
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    parsed = [parse_title(title) for title in titles if title.strip().startswith('"')]
    assert len(parsed) > 1000
    assert sum(title.episode is not None for title in parsed) > len(parsed) / 3
    assert sum(title.year is not None for title in parsed) > 0.9 * len(parsed)
