"""Plots become texts and a matrix of truths; what cannot be used is counted."""

from __future__ import annotations

import pytest

from contracts.errors import StoreError
from training.data.records import PlotRecord, write_records
from training.genres.baseline import baseline
from training.genres.data import read_genres
from training.genres.scores import best_threshold, judge


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        path = tmp_path / "plots.jsonl"
        write_records(
            path,
            [
                PlotRecord(title="T", primary="T", plot=plot, genres=list(genres), split=split)
                for split, plot, genres in rows
            ],
        )
        return path

    return write


def test_genres_are_those_of_the_plots_to_train_on_the_most_frequent_first(write):
    path = write(
        ("train", "one", ["Drama"]),
        ("train", "two", ["War", "Drama"]),
        ("train", "three", ["Rare"]),
        ("validation", "four", ["War", "Unseen"]),
        ("validation", "five", ["Unseen"]),
        ("validation", "six", ["Drama"]),
    )
    data = read_genres(path)
    assert data.genres == ("Drama", "Rare", "War")
    assert data.train.texts == ["one", "two", "three"]
    assert data.train.truth.tolist() == [[True, False, False], [True, False, True], [False, True, False]]
    assert data.validation.truth.tolist() == [[False, False, True], [True, False, False]]
    assert data.skipped == {"no known genre": 1}
    assert data.left_out == {"Unseen": 2}
    fewer = read_genres(path, fewest_plots=2)
    assert fewer.genres == ("Drama",)
    assert fewer.left_out == {"War": 2, "Unseen": 2, "Rare": 1}
    with pytest.raises(StoreError, match="no genre of 3 plots or more"):
        read_genres(path, fewest_plots=3)


def test_without_plots_to_validate_with_nothing_can_be_judged(write):
    with pytest.raises(StoreError, match="no plot to validate with"):
        read_genres(write(("train", "one", ["Drama"])))


def test_the_baseline_learns_words_and_repeats_itself(write):
    words = {"War": "soldier battle army", "Romance": "love kiss wedding"}
    rows = [("train", f"{words[genre]} number{n}", [genre]) for n in range(20) for genre in words]
    rows += [("validation", f"a {words[genre]} tale", [genre]) for genre in words]
    data = read_genres(write(*rows))
    probabilities = baseline(data)
    assert (baseline(data) == probabilities).all()
    threshold = best_threshold(probabilities, data.validation.truth)
    assert judge(probabilities, data.validation.truth, data.genres, [threshold] * 2).micro_f1 == 1.0


def test_a_genre_of_every_plot_needs_no_learning(write):
    rows = [
        ("train", "plot of war", ["All", "War"]),
        ("train", "plot of love", ["All"]),
        ("train", "war again", ["All", "War"]),
    ]
    data = read_genres(write(*rows, ("validation", "plot of war", ["All", "War"])))
    assert baseline(data)[0, data.genres.index("All")] == 1.0
