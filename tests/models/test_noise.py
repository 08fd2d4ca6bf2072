"""Philox is Random123's, and what is made from it is distributed as promised."""

import numpy as np
import pytest
import torch

from models.noise import latents, philox, uniforms

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("word", "seed", "expected"),
    [
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (ONES, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_the_known_answers(word, seed, expected):
    counter = np.array([word], dtype=np.uint64)
    words = philox(np.array([seed], dtype=np.uint64), (counter, counter, counter, counter))
    assert tuple(int(value[0]) for value in words) == expected


def test_uniforms_fill_the_unit_interval_evenly():
    count = 100_000
    indices = np.arange(count, dtype=np.uint64)
    values = uniforms(np.full(count, 3, np.uint64), np.zeros(count, np.uint64), indices)
    assert values.min() >= 0
    assert values.max() < 1
    shares = np.histogram(values, bins=10, range=(0, 1))[0] / count
    assert np.abs(shares - 0.1).max() < 0.005


def test_uniforms_differ_by_seed_row_and_index():
    seeds, rows, indices = np.meshgrid(*[np.arange(20, dtype=np.uint64)] * 3)
    values = uniforms(seeds.ravel(), rows.ravel(), indices.ravel())
    assert len(set(values.tolist())) == 8000


def test_latents_are_standard_normal():
    values = latents(7, list(range(1000)), 100).double()
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.1
    assert abs((values.abs() > 1.959964).double().mean() - 0.05) < 0.003


def test_latents_of_different_rows_are_uncorrelated():
    correlations = torch.corrcoef(latents(7, list(range(40)), 2000))
    assert (correlations - torch.eye(40)).abs().max() < 0.12


def test_a_row_of_latents_does_not_depend_on_the_others():
    together = latents(2**63 - 1, [5, 0, 3], 100)
    for index, row in enumerate([5, 0, 3]):
        assert torch.equal(latents(2**63 - 1, [row], 100)[0], together[index])


@pytest.mark.parametrize(("truncation", "bound", "deviation"), [(0.5, 0.674490, 0.377564), (0.9, 1.644854, 0.789688)])
def test_truncated_latents_are_a_normal_cut_at_the_bound(truncation, bound, deviation):
    """The standard deviation of that normal is the square root of 1 - 2 * bound * density(bound) / truncation."""
    values = latents(7, list(range(1000)), 100, truncation).double()
    assert bound - 0.001 < values.abs().max() <= bound + 1e-6
    assert abs(values.mean()) < 0.005
    assert abs(values.std() - deviation) < 0.005


def test_truncation_squeezes_each_coordinate_by_itself_and_one_changes_nothing():
    free = latents(7, [0, 5], 100)
    assert torch.equal(latents(7, [0, 5], 100, 1.0), free)
    squeezed = latents(7, [0, 5], 100, 0.7)
    assert torch.equal(latents(7, [5], 100, 0.7)[0], squeezed[1])
    assert torch.equal(squeezed.sign(), free.sign())
    assert (squeezed.abs() < free.abs()).all()
    assert torch.equal(squeezed[0].argsort(), free[0].argsort())
