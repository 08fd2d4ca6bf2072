"""What is trained on: records in their splits, plots told once for each genre, ends of text files."""

from __future__ import annotations

import pytest

from contracts.errors import StoreError
from training.data.records import PlotRecord, SynopsisRecord, write_records
from training.texts import holds_plots, read_texts


@pytest.fixture
def synopses(tmp_path):
    path = tmp_path / "synopses.jsonl"
    splits = ("train", "train", "validation")
    write_records(
        path, [SynopsisRecord(title=f"T{n}", text=f"Text {n}.", genres=[], split=s) for n, s in enumerate(splits)]
    )
    return path


@pytest.fixture
def plots(tmp_path):
    path = tmp_path / "plots.jsonl"
    joke = "A thief <|endofgenre|> laughs."
    records = [
        PlotRecord(title="Film", plot=joke, genres=["Crime", "Sci-Fi"], primary="Film", split="train"),
        PlotRecord(title="Other", plot="A judge.", genres=["Drama"], primary="Other", split="validation"),
    ]
    write_records(path, records)
    return path


def test_synopses_are_in_the_split_that_they_name(synopses):
    texts = read_texts(synopses, 0.5)
    assert (texts.train, texts.validation) == (["Text 0.", "Text 1."], ["Text 2."])
    assert texts.joined == ("Text 0.\nText 1.\n", "Text 2.")
    assert not holds_plots(synopses)


def test_plots_are_told_once_for_each_genre_and_hold_no_markers_of_their_own(plots):
    assert holds_plots(plots)
    told = read_texts(plots, 0.0, titles=True)
    assert told.train == [
        f"{genre}<|endofgenre|>Film<|endoftitle|>A thief   laughs.<|endoftext|>" for genre in ("crime", "sci-fi")
    ]
    assert told.prompt_fields is not None
    assert told.prompt_fields.parse(told.validation[0]) == {"genre": "drama", "title": "Other", "plot": "A judge."}
    untitled = read_texts(plots, 0.0, titles=False)
    assert untitled.validation == ["<|startoftext|>drama<|endofgenre|>A judge.<|endoftext|>"]
    assert read_texts(plots, 0.0).validation == ["A judge."]


def test_the_end_of_a_text_file_is_held_out(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\ufeff" + "abcdefghij" * 16, encoding="utf-8")
    texts = read_texts(path, 0.0625)
    assert texts.validation == ["abcdefghij"]
    assert texts.train == ["abcdefghij" * 15]
    assert read_texts(path, 0.0).validation == []


def test_files_that_cannot_be_trained_on_are_refused_by_name(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match=r"corpus\.txt is no UTF-8 text that can be read"):
        read_texts(path, 0.05)
    path.write_text(" \n")
    with pytest.raises(StoreError, match=r"corpus\.txt holds nothing to train on"):
        read_texts(path, 0.05)
    records = tmp_path / "records.jsonl"
    records.write_text('{"title": 1}\n')
    with pytest.raises(StoreError, match="record 1: 'title' is 1"):
        read_texts(records, 0.05)
