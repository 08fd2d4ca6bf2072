"""`kamishibai models probe`: whether a model gives a row the same bits in every batch and place."""

from __future__ import annotations

import re

import pytest


@pytest.mark.parametrize(
    ("model", "sizes"),
    [("lstm", [4, 8, 16, 32, 64]), ("gpt2", [4, 8, 16, 32, 64]), ("faces", [1, 2, 4, 8, 16, 32, 64])],
)
def test_the_probe_shows_every_batch_size_and_that_the_model_is_batch_invariant(kamishibai, store, model, sizes):
    ended = kamishibai("models", "--store", store.root, "probe", model, "--device", "cpu")
    assert (ended.status, ended.err) == (0, "")
    head, *matrix, verdict = ended.out.splitlines()
    assert re.fullmatch(rf"{model}@1 fp_[0-9a-f]{{16}} on cpu", head)
    assert [int(re.match(r"batch +(\d+) ", line)[1]) for line in matrix] == sizes  # type: ignore[index] # or it fails
    for size, line in zip(sizes, matrix, strict=True):
        assert re.findall(r"(\d+): (\w+)", line) == [
            (str(place), "equal") for place in sorted({0, size // 2, size - 1})
        ]
    assert verdict == "batch invariant: yes"


def test_probing_a_model_that_is_not_there_is_one_line(kamishibai, store):
    ended = kamishibai("models", "--store", store.root, "probe", "nope")
    assert (ended.status, ended.out) == (1, "")
    assert len(ended.err.splitlines()) == 1
    assert "has no model nope; it has faces, gpt2, lstm" in ended.err
