"""The demo's data is the same on every run, and not all alike."""

import numpy as np
import pytest

from training.demo_corpus import write_synopses
from training.demo_faces import draw_faces


def test_synopses_are_deterministic_and_grow_by_appending():
    assert write_synopses(30, seed=4) == write_synopses(40, seed=4)[:30]
    assert write_synopses(30, seed=4) != write_synopses(30, seed=5)


def test_synopses_are_varied_lines_of_plain_text():
    synopses = write_synopses(900)
    assert 300_000 < sum(map(len, synopses)) < 400_000
    assert len(set(synopses)) == 900
    assert len({synopsis[:12] for synopsis in synopses}) > 50
    for synopsis in synopses:
        assert synopsis.isascii()
        assert synopsis.isprintable()
        assert not set("{}<>|") & set(synopsis)


@pytest.mark.parametrize("size", [16, 32])
def test_faces_are_deterministic_and_varied(size):
    faces = draw_faces(40, size, seed=4)
    assert faces.shape == (40, size, size, 3)
    assert faces.dtype == np.uint8
    assert np.array_equal(faces[:10], draw_faces(10, size, seed=4))
    assert len(np.unique(faces.reshape(40, -1), axis=0)) == 40
    # Everywhere something varies: background at the corner, hair at the top, eyes, the lower edge.
    assert faces.astype(float).std(axis=0).mean() > 20
