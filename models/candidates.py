"""Drawing from the few likeliest tokens without a pass over the whole vocabulary's probabilities.

For rows with a small `top_k` (greedy ones are `top_k` 1). Sums run one after the other in fp64, and what a neighbour's
larger `top_k` adds to a row is zeros, so that a row's bits depend on that row alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_CANDIDATES = 256


def draw_few(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Token ids (rows,) and where they are valid, bool (rows,).

    `logits` (rows, vocabulary) fp32; settings (rows, 1); `top_k` is 0 for rows that this function is not for;
    `uniform` (rows,) fp64. A row is not valid either if there is no token after its last candidate, or one that ties
    with it: it takes more than `top_k` tokens to keep all that tie.
    """
    top_k = top_k.masked_fill(top_k >= logits.shape[-1], 0)
    values, tokens = logits.topk(int(top_k.max()) + 1)
    scores = values / temperature
    last = scores.gather(-1, (top_k - 1).clamp(min=0))
    valid = (top_k > 0) & (scores.gather(-1, top_k) < last)
    weights = (scores - scores[:, :1]).double().exp().masked_fill(scores < last, 0.0)
    mass = weights.cumsum(-1)
    kept = (mass - weights < top_p * mass[:, -1:]).sum(-1, keepdim=True)
    border = weights.gather(-1, (kept - 1).clamp(min=0)).masked_fill(top_p >= 1, 0.0)
    order = tokens.argsort(-1)
    cdf = weights.masked_fill(weights < border, 0.0).gather(-1, order).cumsum(-1)
    place = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True).clamp(max=tokens.shape[-1] - 1)
    return tokens.gather(-1, order.gather(-1, place))[:, 0], valid[:, 0]


def keep_few(scores: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """What rows are drawn from: weights (rows, vocabulary) fp32, 0 for what top-k, top-p and min-p leave out.

    For CUDA graphs: shapes do not depend on settings, and the device is not asked. `scores` (rows, vocabulary) fp32
    have been divided by the temperature; settings (rows, 1). A `top_k` of 0 keeps all, and the row's bits as they are;
    the others are MOST_CANDIDATES at most, and whoever has a `top_p` or `min_p` has one. All that tie are kept.
    """
    likeliest = scores.topk(min(MOST_CANDIDATES, scores.shape[-1]))
    last = likeliest.values.gather(-1, (top_k.clamp(max=likeliest.values.shape[-1]) - 1).clamp(min=0))
    weights = scores.masked_fill(scores < last.masked_fill(top_k == 0, -torch.inf), -torch.inf).softmax(-1)
    largest = weights.gather(-1, likeliest.indices)
    mass_before = largest.cumsum(-1, dtype=torch.float64) - largest
    place = ((mass_before < top_p).sum(-1, keepdim=True) - 1).clamp(min=0)  # of NaN none are kept
    border = torch.maximum(largest.gather(-1, place).masked_fill(top_p >= 1, 0.0), largest[:, :1] * min_p)
    return weights.masked_fill(weights < border, 0.0)
