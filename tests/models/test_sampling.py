"""Draws have the distribution of transformers' warpers, and depend on nothing but the row itself."""

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from models.cdf import invert_cdf
from models.sampling import BatchSampling, RowSampling, draw, warp

CPU = torch.device("cpu")
SETTINGS = [
    RowSampling(temperature, top_k, top_p, seed=index, row=0)
    for index, (temperature, top_k, top_p) in enumerate(
        [(1.0, 0, 1.0), (0.7, 0, 0.9), (1.3, 40, 1.0), (0.6, 1000, 0.95), (2.0, 5, 0.5), (1.0, 1, 1.0), (0.3, 0, 0.999)]
    )
]


def _by_transformers(logits, row):
    scores = TemperatureLogitsWarper(row.temperature)(None, logits[None])
    if row.top_k:
        scores = TopKLogitsWarper(row.top_k)(None, scores)
    if row.top_p < 1:
        scores = TopPLogitsWarper(row.top_p)(None, scores)
    return scores.softmax(-1)[0]


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_mixed_rows_have_the_probabilities_of_transformers(generator, scale):
    logits = torch.randn(len(SETTINGS), 5000, generator=generator) * scale
    probabilities = warp(logits, BatchSampling(list(SETTINGS), CPU))
    for index, row in enumerate(SETTINGS):
        torch.testing.assert_close(probabilities[index], _by_transformers(logits[index], row), atol=1e-5, rtol=0)


@pytest.mark.parametrize("row", [RowSampling(0.8, 0, 1.0, 11, 0), RowSampling(1.2, 12, 0.9, 11, 0)])
def test_draws_have_the_distribution_they_are_drawn_from(generator, row):
    count = 50_000
    logits = torch.randn(20, generator=generator)
    expected = _by_transformers(logits, row).double().numpy() * count
    batch = BatchSampling([row] * count, CPU)
    drawn = draw(logits.expand(count, -1), batch, list(range(count)))
    counts = np.bincount(drawn.numpy(), minlength=20)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 60  # 19 degrees of freedom: larger in one of 200,000 honest cases


def test_temperature_zero_takes_the_likeliest_token_beside_rows_that_are_drawn(generator):
    logits = torch.randn(4, 100, generator=generator)
    batch = BatchSampling([RowSampling(0.0, 0, 1.0, 1, 0), RowSampling(5.0, 0, 1.0, 1, 0), None, None], CPU)
    assert draw(logits, batch, [0, 0, 0, 0])[0] == logits[0].argmax()


@pytest.mark.parametrize("row", SETTINGS, ids=str)
@pytest.mark.parametrize("rows", [4, 8, 64])
def test_neighbours_settings_do_not_change_a_row(generator, row, rows):
    for slot in (0, rows // 2, rows - 1) * 4:
        logits = torch.randn(rows, 2000, generator=generator) * 2
        alone = logits[[slot, slot, slot, slot]]
        crowd: list[RowSampling | None] = [SETTINGS[index % len(SETTINGS)] for index in range(rows)]
        crowd[slot] = row
        only_row, mixed = BatchSampling([row, None, None, None], CPU), BatchSampling(crowd, CPU)
        assert torch.equal(warp(logits, mixed)[slot], warp(alone, only_row)[0])
        assert draw(logits, mixed, [9] * rows)[slot] == draw(alone, only_row, [9] * 4)[0]


def test_candidates_that_tie_at_the_border_are_all_kept():
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]]).expand(2, -1)
    batch = BatchSampling([RowSampling(1.0, 2, 1.0, 0, 0), RowSampling(1.0, 0, 0.6, 0, 0)], CPU)
    assert (warp(logits, batch) > 0).tolist() == [[True, True, True, False]] * 2


@pytest.mark.parametrize("values", [1, 65, 128, 1000])
def test_inverting_a_cdf_finds_what_one_running_sum_finds(generator, values):
    weights = torch.rand(500, values, generator=generator).square()
    weights[weights < 0.2] = 0
    weights[:, values // 2] = 0.5
    uniform = torch.rand(500, generator=generator, dtype=torch.float64)
    uniform[:3] = torch.tensor([0.0, 1 - 2**-53, 0.5], dtype=torch.float64)
    found = invert_cdf(weights, uniform)
    sums = weights.double().cumsum(-1)
    expected = torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)[:, 0]
    assert torch.equal(found[2:], expected[2:])
    assert (weights.gather(-1, found[:, None]) > 0).all()


def test_noise_made_ahead_is_the_noise_of_each_step():
    rows: list[RowSampling | None] = [RowSampling(1.0, 0, 1.0, 7, 0), RowSampling(1.0, 0, 1.0, 8, 0)]
    one = BatchSampling(rows, CPU)
    for step in (0, 1, 31, 32, 33, 5):
        assert (one.uniforms([step, step + 40]) == BatchSampling(rows, CPU).uniforms([step, step + 40])).all()
