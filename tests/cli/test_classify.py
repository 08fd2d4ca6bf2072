"""`kamishibai classify` and the import of classifiers: what they print, and one line where they cannot."""

from __future__ import annotations

import json

import pytest

GENRES = {"Action", "Comedy", "Drama", "Film-Noir", "Sci-Fi"}
LONG = "the quick brown fox " * 40


@pytest.fixture
def classify(kamishibai, classifiers):
    return lambda *words: kamishibai("classify", *words, "--store", classifiers.root, "--device", "cpu")


def test_every_text_gets_a_table_with_stars_at_what_applies(classify):
    ended = classify("genres", "A pilot\nin love", LONG)
    assert (ended.status, ended.err) == (0, "")
    tables = [table.splitlines() for table in ended.out.strip("\n").split("\n\n")]
    assert tables[0][0] == "A pilot in love"
    assert tables[1][0] == f"{LONG[:73]}... (its first 72 tokens)"
    for _, *rows in tables:
        shares = [float(row.split("%")[0].split()[-1]) for row in rows]
        assert {row[2:].split()[0] for row in rows} == GENRES
        assert shares == sorted(shares, reverse=True)
        assert [row.startswith("*") for row in rows] == [share >= 50 for share in shares]
        assert [row.count("█") for row in rows] == pytest.approx([share * 0.3 for share in shares], abs=0.6)


def test_json_is_one_line_for_each_text(classify):
    ended = classify("genres", "A pilot", LONG, "--json", "--top-k", "2", "--threshold", "0")
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert [each["truncated"] for each in found] == [False, True]
    assert all(set(each["labels"]) == GENRES and len(each["scores"]) == 2 for each in found)


def test_a_long_text_is_read_in_windows_or_refused(classify):
    ended = classify("genres", "A pilot", LONG, "--json", "--long-texts", "average")
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert found[0]["windows"] == 1 < found[1]["windows"]
    assert not found[1]["truncated"]
    shown = classify("genres", LONG, "--long-texts", "average").out
    assert f"(mean of {found[1]['windows']} windows)" in shown
    assert "tokens; genres reads 72" in classify("genres", LONG, "--long-texts", "refuse").err


def test_one_label_applies_where_the_model_says_so(classify):
    (line,) = classify("mood", "A pilot", "--json").out.splitlines()
    found = json.loads(line)
    assert found["labels"] == [found["scores"][0]["label"]]
    assert sum(score["score"] for score in found["scores"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope", "a"], "has no model nope"),
        (["genres", "a\udcff"], "not UTF-8"),
        (["genres", *["a"] * 65], "at most 64 items"),
        (["genres", "a", "--variant", "onnx:int4"], "has no variant"),
    ],
)
def test_what_cannot_be_classified_is_one_line(classify, words, said):
    ended = classify(*words)
    assert (ended.status, ended.out) == (1, "")
    assert len(ended.err.splitlines()) == 1
    assert said in ended.err


def test_models_that_write_and_models_that_label_are_told_apart(kamishibai, store, classifiers):
    ended = kamishibai("generate", "genres", "--store", classifiers.root)
    assert (ended.status, "kamishibai classify genres TEXT" in ended.err) == (1, True)
    ended = kamishibai("classify", "gpt2", "a", "--store", store.root)
    assert (ended.status, "kamishibai generate gpt2" in ended.err) == (1, True)


def test_a_checkpoint_is_imported_by_its_own_family(kamishibai, write_classifier, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    write_classifier(tmp_path / "checkpoint", "bert", problem_type=None)

    def import_hf(*options):
        return kamishibai(
            "import", "hf", tmp_path / "checkpoint", "--name", "tags", "--store", tmp_path / "store", *options
        )

    ended = import_hf("--activation", "sigmoid")
    assert (ended.status, ended.out.startswith("tags@1: bert, ")) == (0, True)
    assert "tags" in kamishibai("models", "--store", tmp_path / "store").out
    refused = import_hf("--fields", "genre<|a|>plot<|b|>")
    assert (refused.status, "leave --fields out" in refused.err) == (1, True)
    refused = import_hf("--text", tmp_path / "checkpoint" / "config.json")
    assert (refused.status, "leave --text out" in refused.err) == (1, True)


def test_the_probe_shows_that_texts_keep_their_bits(kamishibai, classifiers):
    ended = kamishibai("models", "--store", classifiers.root, "probe", "genres", "--device", "cpu")
    assert (ended.status, ended.out.splitlines()[-1]) == (0, "batch invariant: yes")
