"""Similarities of all pairs, held against their definition computed pair by pair."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import StoreError
from training.evaluation import similarity
from training.evaluation.embedding import Encoder, embedding_blocks
from training.evaluation.jaccard import jaccard_blocks
from training.evaluation.similarity import summarise
from training.evaluation.words import words


def jaccard(one, other):
    """By the definition."""
    ours, theirs = set(words(one)), set(words(other))
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else 0.0


TEXTS = st.lists(st.text(alphabet="abcé .'X", max_size=14), min_size=1, max_size=9)


@given(TEXTS, TEXTS, st.integers(1, 30))
def test_jaccard_of_all_pairs_is_that_of_the_definition(generated, training, cells):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "BLOCK_CELLS", cells)
        found = np.concatenate(list(jaccard_blocks(generated, training)))
    expected = [[jaccard(one, other) for other in training] for one in generated]
    assert np.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, O'Neill!", ["don't", "stop", "o'neill"]),
        ("sci-fi snake_case 3.5", ["sci", "fi", "snake", "case", "3", "5"]),
        ("Ärger  'quoted' ...", ["ärger", "quoted"]),
        ("", []),
    ],
)
def test_words_are_letters_and_digits_in_lower_case(text, expected):
    assert words(text) == expected


@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_highest_of_each_row_and_the_means_of_groups_are_those_of_the_whole_matrix(rows, columns, count, seed):
    generator = np.random.default_rng(seed)
    values = (generator.integers(0, 4, (rows, columns)) / 4).astype(np.float32)  # with ties and zeros
    groups = generator.integers(0, 2, (columns, count)).astype(np.float32)
    found = summarise([values[:2], values[2:4], values[4:]], groups)
    for row in range(rows):
        best = max(range(columns), key=lambda column: (values[row, column], -column))
        assert found.highest[row] == values[row, best]
        assert found.nearest[row] == (best if values[row, best] > 0 else -1)
        for group in range(count):
            members = [values[row, column] for column in range(columns) if groups[column, group]]
            assert found.by_group[row, group] == pytest.approx(np.mean(members) if members else 0, abs=1e-6)


def test_similarity_of_meaning_is_the_cosine_of_the_encoders_vectors(encoder_folder, monkeypatch):
    from sentence_transformers import SentenceTransformer

    texts, known = ["the quick fox", "a dog runs", "lazy"], ["the lazy dog", "the quick fox"]
    model = SentenceTransformer(str(encoder_folder), device="cpu")
    ours, theirs = model.encode(texts).astype(np.float64), model.encode(known).astype(np.float64)
    expected = ours @ theirs.T / np.outer(np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1))
    monkeypatch.setattr(similarity, "BLOCK_CELLS", 4)
    blocks = list(embedding_blocks(Encoder(str(encoder_folder)), texts, known))
    assert [len(block) for block in blocks] == [2, 1]
    assert np.allclose(np.concatenate(blocks), expected, atol=1e-6)
    assert np.concatenate(blocks)[0, 1] == pytest.approx(1)


def test_an_encoder_is_named_after_its_folder(encoder_folder):
    assert Encoder(str(encoder_folder)).name == "tiny-encoder"


def test_what_is_no_encoder_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(StoreError, match=r"cannot be used as an encoder: .*give --encoder the folder"):
        Encoder(str(tmp_path))


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("scipy", lambda: list(jaccard_blocks(["a"], ["b"]))),
        ("sentence_transformers", lambda: Encoder("folder")),
    ],
)
def test_a_missing_library_is_told_with_the_command_that_installs_it(module, use, monkeypatch):
    real_import = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StoreError, match=r"pip install 'kamishibai\[evaluate\]'"):
        use()
