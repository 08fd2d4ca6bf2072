"""The report of a few texts: its numbers counted by hand, its figures, its page and its folder."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from contracts.errors import StoreError
from training.evaluation.distribution import of_lengths, of_similarities
from training.evaluation.dumps import Generated
from training.evaluation.embedding import Encoder
from training.evaluation.evaluation import evaluate
from training.evaluation.figures import draw
from training.evaluation.folder import write_report
from training.evaluation.page import page
from training.evaluation.parsing import Parsed
from training.evaluation.perplexity import perplexity_of
from training.evaluation.report import Report, Setting, Uniqueness
from training.evaluation.training_texts import read_training_texts
from training.evaluation.uniqueness import uniqueness


@pytest.fixture
def report(lines, training):
    return evaluate(lines, training, training_file="plots.jsonl")


def test_lines_texts_and_faults_are_counted_per_setting(report):
    cool, hot = report.settings
    assert (cool.source, cool.setting) == ("tiny", Setting(temperature=0.7, top_p=0.9))
    assert (cool.lines, cool.texts, cool.broken, cool.faults) == (3, 3, 0, {})
    assert (hot.source, hot.setting) == ("tiny", Setting(temperature=1.3))
    assert (hot.lines, hot.texts, hot.broken) == (3, 2, 1)
    assert hot.faults == {"missing <|endoftext|>": 1, "missing <|endoftitle|>": 1}


def test_copies_titles_and_words_are_counted(report):
    cool, hot = report.settings
    assert (cool.copies, hot.copies) == (1, 0)
    assert cool.primary_titles == Uniqueness(total=3, distinct=2, known=1)  # Front twice, which is known; Milk
    assert cool.secondary_titles == Uniqueness(total=2, distinct=2, known=0)
    assert cool.texts_uniqueness == Uniqueness(total=3, distinct=3, known=1)
    assert (cool.words.mean, cool.words.lowest, cool.words.highest) == (9, 7, 11)


def test_the_highest_similarity_of_each_text_is_summed_up(report):
    cool, hot = report.settings
    # "An old sergeant writes a letter home" shares "a" with the baker's plot; the milkman's has all but "small" of it.
    letter, milkman = 1 / 16, 9 / 10
    assert cool.highest["jaccard"].highest == 1
    assert cool.highest["jaccard"].mean == pytest.approx((1 + letter + milkman) / 3)
    assert hot.highest["jaccard"].mean == pytest.approx((letter + milkman) / 2)
    assert report.highest["jaccard"].count == 5
    assert sum(report.highest["jaccard"].histogram.counts) == 5
    assert report.highest["jaccard"].histogram.counts[-1] == 1


def test_examples_are_shown_beside_their_neighbours(report):
    first, *_ = report.most_similar["jaccard"]
    assert (first.similarity, first.place, first.genre) == (1, "temp_0_7_topp_0_9.txt:1", "war")
    assert (first.nearest.title, first.nearest.genres) == ("Front (1999)", ("war",))
    similarities = [example.similarity for example in report.least_similar["jaccard"]]
    assert similarities == sorted(similarities)


def test_genres_are_compared_with_all_genres_of_the_training(report):
    found = report.genres["jaccard"]
    assert found.generated == ("comedy", "war")
    assert found.training == ("comedy", "drama", "romance", "war")  # not that of the text to validate
    comedy = dict(zip(found.training, found.means[0], strict=True))
    assert comedy["comedy"] == comedy["romance"] == pytest.approx(9 / 10)


def test_meaning_is_compared_where_an_encoder_is_given(lines, training, encoder_folder):
    report = evaluate(lines, training, Encoder(str(encoder_folder)))
    assert report.encoder == "tiny-encoder"
    assert set(report.highest) == set(report.genres) == set(report.most_similar) == {"jaccard", "embedding"}
    assert report.settings[0].highest["embedding"].highest == pytest.approx(1)
    names = [picture.name for picture in draw(report)]
    assert {"similarity_embedding", "genres_embedding", "affinity_embedding"} <= set(names)


def test_the_same_input_gives_the_same_report_figures_and_page(lines, training, report):
    again = evaluate(lines, training, training_file="plots.jsonl")
    assert again == report
    pictures = draw(report)
    assert draw(again) == pictures
    assert page(again, pictures) == page(report, pictures)


def test_nothing_to_compare_is_told(training):
    with pytest.raises(StoreError, match="nothing to compare"):
        evaluate([], training)


def test_training_texts_to_validate_are_left_out(plots, tmp_path):
    assert len(read_training_texts(plots)) == 3
    path = tmp_path / "validation.jsonl"
    path.write_text(plots.read_text().splitlines()[-1] + "\n")
    with pytest.raises(StoreError, match="no record to train on"):
        read_training_texts(path)
    path.write_text("")
    with pytest.raises(StoreError, match="has no records"):
        read_training_texts(path)


def test_synopses_are_training_texts_too(tmp_path):
    path = tmp_path / "synopses.jsonl"
    path.write_text(json.dumps({"title": "A", "text": "A girl.", "genres": ["Drama"], "split": "train"}) + "\n")
    (text,) = read_training_texts(path)
    assert (text.text, text.genres, text.primary) == ("A girl.", ("drama",), "A")


@pytest.mark.parametrize("values", [[0.0], [1.0], [0.29, 0.57, -0.1], [0.005 * n for n in range(201)]])
def test_a_distribution_counts_every_value(values):
    found = of_similarities(np.array(values))
    assert sum(found.histogram.counts) == found.count == len(values)
    assert (found.lowest, found.highest) == (min(values), max(values))
    lengths = of_lengths([round(100 * max(0.0, value)) for value in values])
    assert sum(lengths.histogram.counts) == len(values)


def test_a_similarity_is_counted_between_its_edges():
    histogram = of_similarities(np.array([0.29])).histogram
    place = histogram.counts.index(1)
    assert (histogram.edges[place], histogram.edges[place + 1]) == (0.29, 0.30)


def test_case_and_white_space_make_no_text_different():
    assert uniqueness(["A  b", "a b ", "c"], frozenset({"c", "d"})) == Uniqueness(total=3, distinct=2, known=1)


def test_perplexity_is_that_of_the_stores_model(store):
    found = perplexity_of(store.open("lstm"), "a young pilot")
    assert (found.model, found.tokens, found.characters) == ("lstm@1", 12, 13)
    assert found.nats_per_character * 13 == pytest.approx(found.nats_per_token * 12)
    with pytest.raises(StoreError, match="faces is for image"):
        perplexity_of(store.open("faces"), "a young pilot")
    with pytest.raises(StoreError, match="the text has 1 tokens of lstm"):
        perplexity_of(store.open("lstm"), "a")


# Figures


def test_figures_are_pictures_of_a_readable_size_with_something_on_them(report):
    pictures = draw(report)
    assert [picture.name for picture in pictures] == [
        "similarity_jaccard",
        "sampling",
        "uniqueness",
        "lengths",
        "broken_lines",
        "genres_jaccard",
        "affinity_jaccard",
    ]
    for picture in pictures:
        image = Image.open(io.BytesIO(picture.png))
        assert image.format == "PNG"
        assert 900 <= image.width <= 1200
        assert 250 <= image.height <= 2000
        assert np.unique(np.asarray(image.convert("L"))).size > 10
        assert picture.title
        assert picture.caption


def test_names_in_any_script_and_with_formulas_can_be_drawn(lines, training):
    strange = [dataclasses.replace(line, source="$x^2 日本\n<b>" + "x" * 60) for line in lines]
    assert len(draw(evaluate(strange, training))) == 7


def test_figures_are_left_out_where_there_are_no_numbers(training):
    line = Generated("one", Setting(temperature=1), "a:1", Parsed("A pilot."))
    report = evaluate([line], training)
    assert [picture.name for picture in draw(report)] == ["similarity_jaccard", "sampling", "uniqueness", "lengths"]
    assert "<h2>Titles" not in page(report, [])


# The page


LOADS = re.compile(
    r"<(?:script|link|iframe|object|embed|base|form)\b|url\(|@import|(?:src|href|srcset)\s*=\s*\"(?!data:)"
)


def test_the_page_holds_all_and_loads_nothing(report):
    pictures = draw(report)
    text = page(report, pictures)
    assert not LOADS.search(text)
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("data:image/png;base64,") == len(pictures)
    assert "default-src 'none'" in text
    for picture in pictures:
        assert html.escape(picture.caption, quote=False) in text


EVIL = '<script>alert("x")</script><img src="http://x/y" onerror=alert(1)>{{ 7 * 7 }}'


def test_texts_of_models_are_shown_as_they_are_and_run_nothing(training):
    line = Generated(EVIL, Setting(temperature=1), EVIL, Parsed(f"{EVIL} pilot", {"genre": "war", "title": EVIL}))
    evil = [dataclasses.replace(text, text=f"{EVIL} {text.text}", title=EVIL) for text in training]
    text = page(evaluate([line], evil, training_file=EVIL), [])
    assert not LOADS.search(text)
    assert "{{ 7 * 7 }}" in text
    assert str(html.escape("<script>alert(")) in text


# The folder


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_holds_page_numbers_and_figures(report, tmp_path):
    write_report(tmp_path / "new" / "report", report)
    found = files_of(tmp_path / "new")
    assert "report/report.html" in found
    assert "report/figures/sampling.png" in found
    assert not [name for name in found if name.startswith(".")]
    assert Report.model_validate_json((tmp_path / "new" / "report" / "report.json").read_text()) == report


def test_an_earlier_report_is_replaced_and_anything_else_is_kept(report, tmp_path):
    folder = tmp_path / "report"
    write_report(folder, report)
    (folder / "figures" / "old.png").write_bytes(b"")
    write_report(folder, report)
    assert "figures/old.png" not in files_of(folder)
    (folder / "thesis.txt").write_text("ten years")
    with pytest.raises(StoreError, match=r"holds 'thesis\.txt'"):
        write_report(folder, report)
    assert (folder / "thesis.txt").exists()
    with pytest.raises(StoreError, match="is a file"):
        write_report(folder / "thesis.txt", report)
    assert not list(tmp_path.glob(".*"))


def test_a_report_that_cannot_be_drawn_leaves_the_earlier_one(report, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    write_report(folder, report)
    before = files_of(folder)
    monkeypatch.setattr("training.evaluation.folder.page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(folder, report)
    assert files_of(folder) == before
    assert not list(tmp_path.glob(".*"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(max_size=20), st.sampled_from([0.7, 1.0]), st.text(max_size=9)), max_size=8))
def test_any_texts_give_a_report_that_is_read_back(training, texts):
    lines = [
        Generated("any", Setting(temperature=temperature), "place", Parsed(text, {"genre": genre, "title": genre}))
        for text, temperature, genre in texts
    ]
    if not any(line.text for line in lines):
        return
    report = evaluate(lines, training)
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert page(report, [])


@pytest.mark.data
def test_the_public_dumps_against_real_plots(data_folder, tmp_path):
    """Every third plot is enough for means near that of the original data, 0.153."""
    from training.data import movies
    from training.data.cleaning import Cleaning
    from training.data.records import write_records
    from training.data.tables import Table
    from training.evaluation.dumps import read_dumps

    cleaning = Cleaning(movies.rules(lambda text: True))
    rows = list(movies.records(Table(data_folder / "movies_genres.tsv"), cleaning, 0.05, 0))
    write_records(tmp_path / "plots.jsonl", rows[::3])
    report = evaluate(read_dumps([data_folder / "movie_plot_dumps"]), read_training_texts(tmp_path / "plots.jsonl"))
    assert len(report.settings) == 12
    assert sum(setting.copies for setting in report.settings) == 0
    assert 0.1 < report.highest["jaccard"].mean < 0.2
    titled = {setting.setting: setting for setting in report.settings if setting.source == "with-titles"}
    cool, hot = titled[Setting(temperature=0.7)], titled[Setting(temperature=1.3)]
    assert cool.diversity.self_bleu
    assert hot.diversity.self_bleu
    assert cool.diversity.self_bleu > 5 * hot.diversity.self_bleu
    assert cool.broken_share < 0.01 < 0.15 < hot.broken_share
