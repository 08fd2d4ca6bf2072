"""Drawing from a distribution by inverting its cumulative sums."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128
FEW_VALUES = 4 * BLOCK  # up to here one running sum is faster


def invert_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Weights (rows, values) fp32, not all zero in a row, and uniforms (rows,) fp64 in [0, 1) -> indices (rows,).

    Sums are fp64. Among many values, first the block of BLOCK values is found in which the uniform lies, then the place
    in it: one running sum over all would take longer than the rest of the draw. A row's result depends on it alone.
    """
    rows, values = probabilities.shape
    if values <= FEW_VALUES:
        sums = probabilities.cumsum(-1, dtype=torch.float64)
        return _first_above(sums, uniform[:, None] * sums[:, -1:])[:, 0]
    blocks = F.pad(probabilities, (0, -values % BLOCK)).view(rows, -1, BLOCK)
    borders = blocks.sum(-1, dtype=torch.float64).cumsum(-1)  # (rows, blocks)
    block = _first_above(borders, uniform[:, None] * borders[:, -1:])
    block = block.clamp(max=blocks.shape[1] - 1)  # what is not a number lies in no block
    before = borders.gather(-1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0.0)
    within = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].cumsum(-1, dtype=torch.float64)
    place = _first_above(within, uniform[:, None] * borders[:, -1:] - before)
    return (block * BLOCK + place)[:, 0]


def _first_above(sums: Tensor, point: Tensor) -> Tensor:
    """Where running sums (rows, n) first exceed the point (rows, 1); where rounding put it too high, the last rise."""
    below_total = torch.nextafter(sums[:, -1:], torch.zeros_like(point))
    return torch.searchsorted(sums, torch.minimum(point, below_total), right=True)
